"""An image file decoded as a data set would."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ditkit.config import DataConfig
from ditkit.data.decode import decode, open_file


def load_image(path: Path, channels: int, smallest: tuple[int, int] | None = None) -> Image.Image:
    """The image of a file on disk."""
    return decode(lambda: open_file(path), str(path), DataConfig(channels=channels), smallest)
