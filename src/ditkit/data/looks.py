"""A close look at one image of a data set: its bytes, its header, and what the network gets of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from ..config import DataConfig
from ..errors import DataError
from .contract import Dataset
from .pictures import Pictures
from .transforms import crop_box, examine, fit

MOST_KEPT_SIDE = 256  # pixels of the pictures that are kept
UNKNOWN = -1  # label id of an image that cannot be read, where only reading tells
_BLOCK = 1 << 20

Size = tuple[int, int]  # width, height


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image to look at: `seen` is what the network gets, `original` the whole, `box` what is kept of it."""

    name: str
    label_id: int
    seen: np.ndarray  # uint8 (height, width, channels), as the others
    original: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom, each from 0 to 1


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one image shows. Size, format and mode are of the encoded one, if it can be had."""

    label_id: int
    digest: bytes = b""  # 16 bytes: equal for equal files, or for equal pixels where there are no files
    size: Size | None = None
    format: str = ""
    mode: str = ""
    shown: Shown | None = None
    why: str | None = None  # it cannot be read


def look(part: Dataset, index: int, config: DataConfig, name: str, *, show: bool) -> Look:
    """Examine one image; with pictures of it if it is to be shown. What is wrong with it is in the answer."""
    if isinstance(part, Pictures):
        return _look_at_original(part, index, config, name if show else None)
    return _look_at_result(part, index, config, name if show else None)


def _look_at_original(part: Pictures, index: int, config: DataConfig, name: str | None) -> Look:
    """Opened once and read in blocks, whatever its length."""
    row, label_id = int(part.rows[index]), int(part.label_ids[index])
    place = part.source.place(row)
    digest = hashlib.blake2b(digest_size=16)

    def opened() -> IO[bytes]:
        file = part.source.opened(row)
        while block := file.read(_BLOCK):
            digest.update(block)
        file.seek(0)
        return file

    try:
        image, header = examine(opened, place, config.channels, config.image_size)
        seen = fit(image, *config.image_size, crop=config.crop)
    except DataError as error:
        return Look(label_id=label_id, why=error.message.removeprefix(f"cannot read the image {place}: "))
    shown = None
    if name is not None:
        left, top, right, bottom = crop_box(image.size, *config.image_size, config.crop)
        shown = Shown(
            name=name,
            label_id=label_id,
            seen=_small(seen),
            original=_small(image),
            box=(left / image.width, top / image.height, right / image.width, bottom / image.height),
        )
    return Look(
        label_id=label_id,
        digest=digest.digest(),
        size=header.size,
        format=header.format,
        mode=header.mode,
        shown=shown,
    )


def _look_at_result(part: Dataset, index: int, config: DataConfig, name: str | None) -> Look:
    """What there is of an image where only the data set itself knows how it comes about."""
    wanted = (*config.image_size, config.channels)
    try:
        image, label_id = part[index]
        label_id = int(label_id)
        if image.dtype != np.uint8 or image.shape != wanted:
            raise DataError(f"it is {image.dtype} {image.shape}, not uint8 {wanted}")
        if not 0 <= label_id < max(1, len(part.labels)):
            raise DataError(f"its label id is {label_id}, and there are {len(part.labels)} labels")
    except DataError as error:
        return Look(label_id=UNKNOWN, why=error.message)
    except Exception as error:  # a mistake in a plug-in is a finding here
        return Look(label_id=UNKNOWN, why=f"{type(error).__name__}: {error}")
    digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    size = image.shape[1], image.shape[0]
    shown = None if name is None else Shown(name=name, label_id=label_id, seen=_small(image))
    return Look(label_id=label_id, digest=digest, size=size, shown=shown)


def _small(image: Image.Image | np.ndarray) -> np.ndarray:
    """The image, shrunk where it is larger than what is kept."""
    if max(image.size if isinstance(image, Image.Image) else image.shape[:2]) > MOST_KEPT_SIDE:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        image = ImageOps.contain(image, (MOST_KEPT_SIDE, MOST_KEPT_SIDE), Image.Resampling.LANCZOS)
    pixels = np.array(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
