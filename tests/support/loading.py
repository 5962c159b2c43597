"""An image file decoded as a data set would."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from PIL import Image

from ditkit.config import DataConfig
from ditkit.data.decode import decode, open_file
from ditkit.data.edit_input import OneImage
from ditkit.data.settle import settled


def load_image(
    path: Path, channels: Literal[1, 3], smallest: tuple[int, int] | None = None, reading: Literal[1, 2] = 2
) -> Image.Image:
    """The image of a file on disk."""
    config = settled(DataConfig(channels=channels, reading=reading), OneImage(path))
    return decode(lambda: open_file(path), str(path), config, smallest)
