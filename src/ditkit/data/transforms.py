"""From an image file to pixels of the wanted size, without the ways in which that goes silently wrong."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import DitkitError

# Named, because Pillow would otherwise try everything it knows, and runs Ghostscript for an EPS file.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
LONGEST_SIDE = 16384
MOST_PIXELS = 64_000_000

_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    MemoryError,
    EOFError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def load_image(path: Path, channels: int, smallest: tuple[int, int] | None = None) -> Image.Image:
    """The first frame of an image file, upright, 8 bits, in mode L (1 channel) or RGB (3).

    Transparency is laid on white, 16-bit and float images are scaled to their range. A JPEG may be decoded at a
    fraction of its size that is still twice `smallest` (height, width). Raises DitkitError naming the file.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(path, image.size)
            if smallest is not None:
                side = 2 * max(smallest)  # of both sides: the image may be lying on one
                image.draft(image.mode, (side, side))
            ImageOps.exif_transpose(image, in_place=True)
            return _flatten(_to_eight_bits(image)).convert("L" if channels == 1 else "RGB")
    except _DECODING_ERRORS as error:
        raise DitkitError(f"cannot read the image {path}: {_why(path, error)}", "replace it or take it away") from None


def fit(
    image: Image.Image, height: int, width: int, resample: Image.Resampling = Image.Resampling.LANCZOS
) -> np.ndarray:
    """The centre of an image at the target's aspect ratio, resized with antialiasing: uint8 (height, width, C)."""
    scale = min(image.width / width, image.height / height)
    crop_width, crop_height = max(1, round(scale * width)), max(1, round(scale * height))
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    cropped = image.crop((left, top, left + crop_width, top + crop_height))
    pixels = np.array(cropped.resize((width, height), resample, reducing_gap=3.0))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _check_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if not (1 <= width <= LONGEST_SIDE and 1 <= height <= LONGEST_SIDE and width * height <= MOST_PIXELS):
        raise DitkitError(
            f"the image {path} is too large: {width}x{height} pixels",
            f"shrink it to at most {LONGEST_SIDE} pixels a side and {MOST_PIXELS // 10**6} million in all",
        )


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey images as mode L; Pillow's own conversion would clip them."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    # A float or 32-bit file does not say where white is: the nearest customary value above its brightest pixel.
    whites = [65535.0] if image.mode.startswith("I;16") or image.format == "PNG" else [255.0, 65535.0]
    whites = [1.0, *whites] if image.mode == "F" else whites
    brightest = float(values.max())
    white = next((white for white in whites if brightest <= white), brightest)
    return Image.fromarray(np.rint(values.clip(0, white) * (255 / white)).astype(np.uint8))


def _flatten(image: Image.Image) -> Image.Image:
    """Transparency laid on white."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image)


def _why(path: Path, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    if isinstance(error, Image.UnidentifiedImageError):
        if path.stat().st_size == 0:
            return "the file is empty"
        return "it is damaged, or none of " + ", ".join(FORMATS)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]
