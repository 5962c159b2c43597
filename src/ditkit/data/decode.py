"""From an image file to uint8 pixels of the wanted size, without the errors that are usually silent."""

from __future__ import annotations

import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageFile

from ..errors import DataError, UsageError
from .formats import formats

if TYPE_CHECKING:
    from ..config import DataConfig

LONGEST_SIDE = 16384
MOST_PIXELS = 64_000_000

# Pillow raises almost any exception for damaged files.
_DECODING_ERRORS = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError)
_DECODING_ERRORS += (AttributeError, RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXCHANGING = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))  # width and height
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF


def decode(
    opener: Callable[[], IO[bytes]], name: str, config: DataConfig, smallest: tuple[int, int] | None = None
) -> Image.Image:
    """The first frame of an image, from what opens it as a seekable file: upright, mode L (1 channel) or RGB (3).

    Transparency is laid on white, 16-bit and float images are scaled to 8 bits by their range. A JPEG may be decoded
    at a fraction of its size that is still twice `smallest` (height, width). Raises DataError, which calls it `name`.
    """
    return examine(opener, name, config, smallest)[0]


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an image file says about its image."""

    size: tuple[int, int]  # width, height, of the whole image upright
    format: str
    mode: str


def examine(
    opener: Callable[[], IO[bytes]], name: str, config: DataConfig, smallest: tuple[int, int] | None = None
) -> tuple[Image.Image, Header]:
    """The image as `decode` gives it, and the file's header. Raises DataError."""
    _hush_pillow()
    try:
        with opener() as file, Image.open(file, formats=formats(config.reading)) as image:
            size, mode = image.size, image.mode
            _check_size(name, size)
            if smallest is not None:
                side = 2 * max(smallest)  # for both sides: the orientation may exchange them
                image.draft(image.mode, (side, side))
            _mend_transparency(image)
            image.load()
            is_exchanged = _TURNS.get(_orientation(image)) in _EXCHANGING
            header = Header(size=size[::-1] if is_exchanged else size, format=image.format or "", mode=mode)
            return to_plain(image, config.channels), header
    except _DECODING_ERRORS as error:
        raise DataError(f"cannot read the image {name}: {_why(error, config)}", "replace it or take it away") from None


def to_plain(image: Image.Image, channels: int) -> Image.Image:
    """An image that is loaded: upright, 8 bits, mode L (1 channel) or RGB (3), transparency laid on white."""
    turn = _TURNS.get(_orientation(image))
    plain = _flatten(_to_eight_bits(image)).convert("L" if channels == 1 else "RGB")
    return plain.transpose(turn) if turn is not None else plain


def fit(
    image: Image.Image,
    height: int,
    width: int,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
    crop: str = "center",
) -> np.ndarray:
    """An image at the target's size, resized with antialiasing: uint8 (height, width, C).

    The target's aspect ratio comes from cropping, at opposite sides ("center") or at the bottom and both sides
    ("top"), from white margins ("pad"), or from distortion ("stretch").
    """
    if crop == "pad":
        scale = max(image.width / width, image.height / height)
        inner = max(1, round(image.width / scale)), max(1, round(image.height / scale))
        resized = image.resize(inner, resample, reducing_gap=3.0)
        canvas = Image.new(image.mode, (width, height), "white")
        canvas.paste(resized, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    else:
        canvas = image.crop(crop_box(image.size, height, width, crop)).resize(
            (width, height), resample, reducing_gap=3.0
        )
    return as_array(canvas)


def as_array(image: Image.Image | np.ndarray) -> np.ndarray:
    """The pixels as an array of its own, (height, width, channels) also for one channel."""
    pixels = np.array(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def read_for_edit(path: Path, mask: Path | None, data: DataConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """An image as a model's training images were prepared, uint8 (H, W, C), and where `mask` is white, bool (H, W).

    Raises UsageError for a file that is missing, and for a mask of another size or without a white pixel; DataError
    for one that cannot be decoded.
    """
    height, width = data.image_size
    for file in (path, mask):
        if file is not None and not file.is_file():
            raise UsageError(f"there is no file {file}", "check the path")
    image, header = examine(lambda: open_file(path), path.name, data)
    pixels = fit(image, height, width, crop=data.crop)
    if mask is None:
        return pixels, None
    cover, mask_header = examine(lambda: open_file(mask), mask.name, replace(data, channels=1))
    if mask_header.size != header.size:
        sizes = [" x ".join(map(str, size)) for size in (mask_header.size, header.size)]
        raise UsageError(f"the mask is {sizes[0]} pixels, the image {sizes[1]}", "they must be of one size")
    paint = fit(cover, height, width, resample=Image.Resampling.BOX, crop=data.crop)[:, :, 0] > 127
    if not paint.any():
        raise UsageError(f"{mask} is black where the model looks: there is nothing to paint", "make that part white")
    return pixels, paint


def crop_box(size: tuple[int, int], height: int, width: int, crop: str) -> tuple[int, int, int, int]:
    """The part of an image of a size (width, height) that `fit` keeps: left, top, right, bottom.

    It is all of the image, or the largest part that has the target's aspect ratio.
    """
    if crop in ("pad", "stretch"):
        return 0, 0, *size
    scale = min(size[0] / width, size[1] / height)
    crop_width, crop_height = max(1, round(scale * width)), max(1, round(scale * height))
    left, top = (size[0] - crop_width) // 2, 0 if crop == "top" else (size[1] - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def _check_size(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if not (1 <= width <= LONGEST_SIDE and 1 <= height <= LONGEST_SIDE and width * height <= MOST_PIXELS):
        raise DataError(
            f"the image {name} is too large: {width}x{height} pixels",
            f"shrink it to at most {LONGEST_SIDE} pixels a side and {MOST_PIXELS // 10**6} million in all",
        )


def open_file(path: Path) -> IO[bytes]:
    """Open a regular file and nothing else: opening a pipe would wait for a writer. Raises OSError, ValueError."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise ValueError("the file is empty" if stat.S_ISREG(status.st_mode) else "it is not a file")


def _hush_pillow() -> None:
    """Pillow warns about odd files on stderr; they become an image or an error here. Cheap when repeated."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation; a damaged one is no reason to lose the image."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DECODING_ERRORS:
        return None
    return orientation if isinstance(orientation, int) else None


def _mend_transparency(image: ImageFile.ImageFile) -> None:
    """Pillow compares a PNG's transparent colour, as the file has it, with samples that it makes 8 bits wide."""
    transparent, bits = image.info.get("transparency"), image.tile[0][3] if image.tile else None
    if isinstance(transparent, int) and bits in ("L;2", "L;4"):
        image.info["transparency"] = transparent * {"L;2": 85, "L;4": 17}[bits]
    elif isinstance(transparent, tuple) and bits == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in transparent)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey images as mode L; Pillow's own conversion would clip them."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values, tags = np.array(image, dtype=np.float32), getattr(image, "tag_v2", {})
    transparent = values == image.info["transparency"] if "transparency" in image.info else None
    values[np.isnan(values)] = 0
    brightest = float(values[np.isfinite(values)].max(initial=0))
    if image.mode.startswith("I;16") or image.format == "PNG":
        whites = [2.0 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1]
    else:  # the file does not say where white is: the smallest usual value above its brightest pixel
        whites = [1.0, 255.0, 65535.0] if image.mode == "F" else [255.0, 65535.0]
    white = next((white for white in whites if brightest <= white), brightest)
    levels = np.rint(values.clip(0, white, out=values) * np.float32(255 / white)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = 255 - levels
    if transparent is not None:
        levels[transparent] = 255
    return Image.fromarray(levels)


def _flatten(image: Image.Image) -> Image.Image:
    """Transparency laid on white."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image)


def _why(error: BaseException, config: DataConfig) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is damaged, or none of " + ", ".join(formats(config.reading))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or ["it is damaged"])[0]
