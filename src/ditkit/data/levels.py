"""Grey images of 16 or 32 bits or of floats as 8 bits: which level is black, and which is white."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..config import DataConfig

_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF
_USUAL = {"16-bit": 65535.0, "32-bit": 65535.0, "float": 1.0}  # white of a kind where no image says another


@dataclass(frozen=True, kw_only=True)
class Levels:
    """What the levels of an image of more than 8 bits are like."""

    kind: str  # "16-bit", "32-bit" or "float"
    bits: int  # of a level, as the file says
    darkest: float
    brightest: float


def is_deep(image: Image.Image) -> bool:
    """Whether an image has more than 8 bits a level, and one level a pixel."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _kind(image: Image.Image) -> str:
    if image.mode == "F":
        return "float"
    return "16-bit" if image.mode.startswith("I;16") or image.format in ("PNG", "PPM") else "32-bit"


def _bits(image: Image.Image) -> int:
    return getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]


def levels_of(image: Image.Image) -> Levels:
    """The levels of a deep image. Of 32 bits and floats a thousandth at either end does not count: often no data."""
    values = np.array(image, dtype=np.float64)
    values, kind = values[np.isfinite(values)], _kind(image)
    ends = (0.0, 0.0)
    if values.size:
        outliers = 0.0 if kind == "16-bit" else 0.1
        ends = np.percentile(values, (outliers, 100 - outliers), method="nearest")
    return Levels(kind=kind, bits=_bits(image), darkest=float(ends[0]), brightest=float(ends[1]))


def white_of(levels: Levels) -> float:
    """The white of a set from its brightest level: the customary one that it fits, with a tenth of overshoot.

    16-bit: that of 8, 10, 12, 14 or 16 bits, the first that is bright enough. 32-bit: 255, or one of those of which
    it is more than half. Float: 1, or 255 or 65535 of which it is more than half. Else the brightest level itself.
    """
    if levels.kind == "16-bit" and levels.bits < 16:
        return 2.0**levels.bits - 1
    whites = (1.0, 255.0, 65535.0) if levels.kind == "float" else tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))
    for white in whites:
        near = levels.kind == "16-bit" or white == whites[0] or levels.brightest > white / 2
        if levels.brightest <= 1.1 * white and near:
            return white
    return float(f"{levels.brightest:.4g}")


def black_of(levels: Levels, white: float) -> float:
    """0; where levels are below that by more than a tenth of white, or minus white if they reach about there."""
    if levels.darkest >= -0.1 * white:
        return 0.0
    return -white if -1.1 * white <= levels.darkest <= -0.5 * white else float(f"{levels.darkest:.4g}")


def to_eight_bits(image: Image.Image, config: DataConfig, background: int) -> Image.Image:
    """A deep image as mode L: black to white is 0 to 255, beyond is cut off, and what is not a number is black."""
    if config.reading == 1:
        return _by_its_brightest(image)
    values = np.array(image, dtype=np.float32)
    transparent = values == image.info["transparency"] if "transparency" in image.info else None
    black, white = config.black or 0.0, config.white
    if white is None:
        white = 2.0 ** _bits(image) - 1 if _kind(image) == "16-bit" else _USUAL[_kind(image)]
    values[np.isnan(values)] = black
    part = (values.clip(black, white, out=values) - np.float32(black)) * np.float32(255 / (white - black))
    return _as_image(image, np.rint(part).astype(np.uint8), transparent, background)


def _by_its_brightest(image: Image.Image) -> Image.Image:
    """The first reading: white is the smallest usual value above the brightest pixel of each image."""
    values = np.array(image, dtype=np.float32)
    transparent = values == image.info["transparency"] if "transparency" in image.info else None
    values[np.isnan(values)] = 0
    brightest = float(values[np.isfinite(values)].max(initial=0))
    if image.mode.startswith("I;16") or image.format == "PNG":
        whites = [2.0 ** _bits(image) - 1]
    else:
        whites = [1.0, 255.0, 65535.0] if image.mode == "F" else [255.0, 65535.0]
    white = next((white for white in whites if brightest <= white), brightest)
    levels = np.rint(values.clip(0, white, out=values) * np.float32(255 / white)).astype(np.uint8)
    return _as_image(image, levels, transparent, 255)


def _as_image(image: Image.Image, levels: np.ndarray, transparent: np.ndarray | None, background: int) -> Image.Image:
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = 255 - levels
    if transparent is not None:
        levels[transparent] = background
    return Image.fromarray(levels)
