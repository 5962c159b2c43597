"""An image to edit and its mask, prepared as the images that a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageChops

from ..config import DataConfig
from ..errors import UsageError
from ..io.paths import not_there
from .decode import examine, fit, open_file
from .settle import settled


@dataclass(frozen=True)
class OneImage:
    """A set of one image, by which is settled what the model's own set has not."""

    path: Path

    def __len__(self) -> int:
        return 1

    def name(self, row: int) -> str:
        return self.path.name

    def open_bytes(self, row: int) -> IO[bytes]:
        return open_file(self.path)


def read_for_edit(path: Path, mask: Path | None, data: DataConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """An image as a model's training images were prepared, uint8 (H, W, C), and where `mask` is white, bool (H, W).

    Raises UsageError for a file that is missing, and for a mask of another size, with transparent parts or without a
    white pixel; DataError for one that cannot be decoded.
    """
    height, width = data.image_size
    for file in (path, mask):
        if file is not None and not file.is_file():
            raise UsageError(f"there is no file {file}", not_there(file))
    data = settled(data, OneImage(path))
    image, header = examine(lambda: open_file(path), path.name, data)
    pixels = fit(image, height, width, crop=data.crop)
    if mask is None:
        return pixels, None
    return pixels, _to_paint(mask, header.size, data)


def _to_paint(mask: Path, size: tuple[int, int], data: DataConfig) -> np.ndarray:
    """Where a mask is white, bool (H, W); `size` is that of the original, width x height."""
    light, dark = (
        examine(lambda: open_file(mask), mask.name, replace(data, channels=1, background=background))
        for background in ("white", "black")
    )
    cover, mask_header = light
    if ImageChops.difference(cover, dark[0]).getbbox():
        raise UsageError(
            f"{mask} has transparent parts, which say neither paint nor stay",
            "save it without transparency: white is painted, black stays",
        )
    if mask_header.size != size:
        sizes = [" x ".join(map(str, each)) for each in (mask_header.size, size)]
        raise UsageError(f"the mask is {sizes[0]} pixels, the image {sizes[1]}", "they must be of one size")
    height, width = data.image_size
    paint = fit(cover, height, width, resample=Image.Resampling.BOX, crop=data.crop)[:, :, 0] > 127
    if not paint.any():
        raise UsageError(f"{mask} is black where the model looks: there is nothing to paint", "make that part white")
    return paint
