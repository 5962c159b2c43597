"""From an image file to uint8 pixels of the wanted size, without the errors that are usually silent."""

from __future__ import annotations

import errno
import os
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageFile

from ..errors import DataError, MachineError
from ..io.reading import open_regular
from .colour import to_srgb
from .formats import formats
from .levels import is_deep, to_eight_bits

if TYPE_CHECKING:
    from ..config import DataConfig

LONGEST_SIDE = 16384
MOST_PIXELS = 64_000_000

# Pillow raises almost any exception for damaged files.
decode_errors = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError)
decode_errors += (AttributeError, RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError)
# Of an image that is not there, is something else or may not be read; any other number is the machine's.
_OF_THE_IMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO)
_OF_THE_IMAGE += (errno.EACCES, errno.EPERM)
_RETRIES = (0.1, 0.5, 2.0)  # seconds to wait before the machine is asked again
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


def decode(
    opener: Callable[[], IO[bytes]], name: str, config: DataConfig, smallest: tuple[int, int] | None = None
) -> Image.Image:
    """The first frame of an image, from what opens it as a seekable file: upright, mode L (1 channel) or RGB (3).

    Colours are made sRGB by the image's profile, transparency is laid on `config.background`, and levels of 16 bits,
    32 bits and floats become 8 bits between `config.black` and `config.white`. A JPEG may be decoded at a fraction of
    its size that is still twice `smallest` (height, width). Raises DataError, which calls the image `name`.
    """
    return examine(opener, name, config, smallest)[0]


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an image file says about its image."""

    size: tuple[int, int]  # width, height, of the whole image upright
    format: str
    mode: str
    profile: str = ""  # the name of its colour profile, or colour.IGNORED


def examine(
    opener: Callable[[], IO[bytes]], name: str, config: DataConfig, smallest: tuple[int, int] | None = None
) -> tuple[Image.Image, Header]:
    """The image as `decode` gives it, and the file's header.

    Raises DataError for a damaged or missing image, MachineError where the machine fails to read it for some seconds.
    """
    for seconds in _RETRIES:
        with suppress(MachineError):
            return _examined(opener, name, config, smallest)
        time.sleep(seconds)
    return _examined(opener, name, config, smallest)


def _examined(
    opener: Callable[[], IO[bytes]], name: str, config: DataConfig, smallest: tuple[int, int] | None
) -> tuple[Image.Image, Header]:
    try:
        with opened(opener, config) as image:
            size, mode = image.size, image.mode
            _check_size(name, size)
            if smallest is not None:
                side = 2 * max(smallest)  # for both sides: the orientation may exchange them
                image.draft(image.mode, (side, side))
            _mend_transparency(image)
            image.load()
            plain, profile = to_plain(image, config, smallest)
            is_exchanged = _TURNS.get(_orientation(image)) in _EXCHANGING
            size = (size[1], size[0]) if is_exchanged else size
            return plain, Header(size=size, format=image.format or "", mode=mode, profile=profile)
    except decode_errors as error:
        text = f"cannot read the image {name}: {_why(error, config)}"
        if _is_of_the_machine(error):
            raise MachineError(text, "when it can be read again, the same command goes on") from None
        raise DataError(text, "replace it or take it away") from None


def _is_of_the_machine(error: BaseException) -> bool:
    """Whether reading failed for another reason than the image: too many open files, a disk or network drive, memory.

    Such an image must not be taken for a damaged one, which another takes the place of.
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, OSError) and error.errno is not None and error.errno not in _OF_THE_IMAGE


def to_plain(
    image: Image.Image, config: DataConfig, smallest: tuple[int, int] | None = None
) -> tuple[Image.Image, str]:
    """An image that is loaded as `decode` gives it, and the name of its colour profile (`colour.to_srgb`)."""
    turn, background = _TURNS.get(_orientation(image)), 0 if config.background == "black" else 255
    plain, profile = (image, "") if config.reading == 1 else to_srgb(image, smallest)
    plain = to_eight_bits(image, config, background) if is_deep(image) else plain
    plain = _flatten(plain, background).convert("L" if config.channels == 1 else "RGB")
    return plain.transpose(turn) if turn is not None else plain, profile


@contextmanager
def opened(opener: Callable[[], IO[bytes]], config: DataConfig) -> Iterator[ImageFile.ImageFile]:
    """An image whose header is read; errors are some of `decode_errors`."""
    _hush_pillow()
    with opener() as file, Image.open(file, formats=formats(config.reading)) as image:
        yield image


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
    """Open an image file, which may be anything. Raises OSError, and ValueError for an empty file."""
    file = open_regular(path)
    if not os.fstat(file.fileno()).st_size:
        file.close()
        raise ValueError("the file is empty")
    return file


def _hush_pillow() -> None:
    """Pillow warns about odd files on stderr; they become an image or an error here. Cheap when repeated."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation; a damaged one is no reason to lose the image.

    JPEG XL has another, by which its decoder turns the image (ISO 18181-2): that of EXIF does not count there.
    """
    if image.format == "JXL":
        return None
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except decode_errors:
        return None
    return orientation if isinstance(orientation, int) else None


def _mend_transparency(image: ImageFile.ImageFile) -> None:
    """Pillow compares a PNG's transparent colour, as the file has it, with samples that it makes 8 bits wide."""
    transparent, bits = image.info.get("transparency"), image.tile[0][3] if image.tile else None
    if isinstance(transparent, int) and bits in ("L;2", "L;4"):
        image.info["transparency"] = transparent * {"L;2": 85, "L;4": 17}[bits]
    elif isinstance(transparent, tuple) and bits == "RGB;16B":
        image.info["transparency"] = tuple(level >> 8 for level in transparent)


def _flatten(image: Image.Image, background: int) -> Image.Image:
    """Transparency laid on a grey of 0 to 255."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (background, background, background, 255)), image)


def _why(error: BaseException, config: DataConfig) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is gone"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is damaged, or none of " + ", ".join(formats(config.reading))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or ["it is damaged"])[0]
