"""Stripes at random angles, two classes: a dataset of your own in thirty lines."""

from __future__ import annotations

import numpy as np

from ditkit.config import DataConfig
from ditkit.data.contract import Dataset, Split


class Stripes:
    """Images computed when they are read; image `i` is a function of `i`."""

    labels = ("wide", "narrow")
    fingerprint = "stripes-1"

    def __init__(self, config: DataConfig, split: Split):
        self.size, self.channels = config.image_size, config.channels
        self.first, self.count = (0, 2000) if split == "train" else (2000, config.validation)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        label, angle = index % 2, np.random.default_rng(self.first + index).uniform(0, np.pi)
        y, x = np.indices(self.size)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (0.6, 1.5)[label])
        image = ((wave + 1) * 127.5).astype(np.uint8)
        return np.repeat(image[..., None], self.channels, axis=2), label


def dataset(config: DataConfig, split: Split) -> Dataset:
    """The function that ditkit looks for in a dataset's file."""
    return Stripes(config, split)
