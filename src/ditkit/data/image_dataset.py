"""Images of any source as a dataset: where their bytes are, which label each has, how they are decoded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np

from ..config import DataConfig
from .contract import Split, held_out
from .decode import decode, fit
from .labels.listing import Layout
from .settle import settled
from .sources.compact_names import hashed


class Source(Protocol):
    """Where the images are, still encoded: files of a folder, members of archives, rows of tables.

    Workers get it by pickling or by fork: it opens what it reads in the process that reads. What it holds of each
    image is small, because there may be millions.
    """

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each image, still encoded: integers (N,)."""
        ...

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """Its name within the source: the same on every machine, so that the same images are held out."""
        ...

    def place(self, row: int) -> str:
        """Where it is, for error messages."""
        ...

    def open_bytes(self, row: int) -> IO[bytes]:
        """The encoded image as a seekable file. Raises OSError or ValueError when it cannot be read."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageDataset:
    """Images of a source, decoded and fitted each time they are read (a Dataset)."""

    labels: tuple[str, ...]
    fingerprint: str
    source: Source
    rows: np.ndarray  # int64 (N,): which of the source
    label_ids: np.ndarray  # int64 (N,)
    config: DataConfig
    layout: Layout | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> list[str]:
        """The images' names within their source."""
        return [self.source.name(int(row)) for row in self.rows]

    def place(self, index: int) -> str:
        """Where an image is, for messages."""
        return self.source.place(int(self.rows[index]))

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        row, config = int(self.rows[index]), self.config
        image = decode(lambda: self.source.open_bytes(row), self.source.place(row), config, config.image_size)
        return fit(image, *config.image_size, crop=config.crop), int(self.label_ids[index])


def image_dataset(
    config: DataConfig, split: Split, source: Source, labels: tuple[str, ...], label_ids: Sequence[int] | np.ndarray
) -> ImageDataset:
    """The images of a source that are in a split: of each class, some are held out for validation (`held_out`)."""
    name_hashes = (hashed(os.fsencode(source.name(row))) for row in range(len(source)))
    held = held_out(name_hashes, np.asarray(label_ids, dtype=np.int64), config.validation)
    rows = np.flatnonzero(held if split == "validation" else ~held)
    return image_subset(config, source, rows, labels, label_ids)


def image_subset(
    config: DataConfig,
    source: Source,
    rows: Sequence[int] | np.ndarray,
    labels: tuple[str, ...],
    label_ids: Sequence[int] | np.ndarray,
) -> ImageDataset:
    """The images in some rows of a source; `label_ids` are those of all its rows."""
    rows, config = np.asarray(rows, dtype=np.int64), settled(config, source)
    ids = np.asarray(label_ids, dtype=np.int64)[rows]
    names = (source.name(int(row)) for row in rows)
    digest = fingerprint(names, map(int, source.sizes[rows]), map(int, ids), config)
    return ImageDataset(labels=labels, fingerprint=digest, source=source, rows=rows, label_ids=ids, config=config)


def fingerprint(names: Iterable[str], sizes: Iterable[int], label_ids: Iterable[int], config: DataConfig) -> str:
    """A hash of names, sizes and labels in their order, and of how files become pixels: the same wherever they lie."""
    how = f"reading {config.reading}, {config.black} to {config.white} on {config.background}\n"
    digest = hashlib.sha256(b"" if config.reading == 1 else how.encode())
    for name, size, label in zip(names, sizes, label_ids, strict=True):
        digest.update(os.fsencode(name) + f"\0{size}\0{label}\n".encode())
    return digest.hexdigest()
