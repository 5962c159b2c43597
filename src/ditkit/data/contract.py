"""What a dataset is, and how one is opened.

A dataset's file defines `dataset(config, split)`, which returns a `Dataset` or raises DitkitError before any work. The
file's name is the dataset's name (`my_squares.py` is `my-squares`), the first line of its docstring the description in
`ditkit list`; both are read without importing it. `config` is a `DataConfig`; of it a dataset obeys

- `image_size` (height, width) and `channels`: all images have this shape;
- `validation`: at most so many images are in the split "validation", and none of them in "train" (`holdout`);
- `path`, `label_by` and the others, where they mean something for it, else UsageError where they are set.

Both splits have the same labels. The order, mirroring, batches and replacements of unreadable images are the work of
`data.batches`.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from ..config import DataConfig
from ..registry import DATASETS
from .sources.compact_names import hashed

Split = Literal["train", "validation"]


class Dataset(Protocol):
    """Images of one size with integer labels. It is pickled for worker processes, and read by several threads."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names in the order of their ids; empty for an unconditional dataset, whose label ids are all 0."""
        ...

    @property
    def fingerprint(self) -> str:
        """Text that changes when the images, their labels or their order do: a run continues with the same only."""
        ...

    def __len__(self) -> int:
        """The number of images; 0 is allowed for "validation"."""
        ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """The image, uint8 (height, width, channels), always the same for an index, and its label id.

        Raises DataError for an image that cannot be read; training replaces it by another.
        """
        ...


def open_dataset(config: DataConfig, split: Split) -> Dataset:
    """The dataset that a config names.

    Raises UsageError for an unknown name, and DitkitError when images are missing or malformed.
    """
    return DATASETS.load(config.name)(config, split)


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """The two data sets of a run, opened once and handed on."""

    train: Dataset
    validation: Dataset


def open_datasets(config: DataConfig) -> Datasets:
    """Both data sets that a config names. Raises DitkitError as `open_dataset` does."""
    return Datasets(train=open_dataset(config, "train"), validation=open_dataset(config, "validation"))


def holdout(names: Sequence[str], label_ids: Sequence[int] | np.ndarray, count: int) -> tuple[list[int], list[int]]:
    """Indices (ascending) of the images to train on and of those for validation; see `held_out`."""
    is_held_out = held_out(map(hashed, map(os.fsencode, names)), np.asarray(label_ids, dtype=np.int64), count)
    return np.flatnonzero(~is_held_out).tolist(), np.flatnonzero(is_held_out).tolist()


def held_out(name_hashes: Iterable[int], label_ids: np.ndarray, count: int) -> np.ndarray:
    """Which images are held out for validation: bool (N,), of 64-bit hashes and int64 label ids of N images.

    At most `count` images and a tenth of all are held out, equally many of each class as far as a class can spare
    them (a tenth of it, at least one of two). The choice depends on the names alone, by hash: it is the same on every
    machine, and hardly changes when images are added.
    """
    chosen = np.zeros(len(label_ids), dtype=bool)
    sizes, count = np.bincount(label_ids), min(count, len(label_ids) // 10)
    spare, most = np.maximum(sizes // 10, np.minimum(sizes - 1, 1)), 1  # most: of a class, at least
    while np.minimum(spare, most).sum() < count and most < spare.max():
        most *= 2
    spared = np.minimum(spare, most).tolist()
    smallest: list[list[tuple[int, int]]] = [[] for _ in sizes]  # hashes of each class: heaps, negative, of the spared
    for index, (name_hash, label) in enumerate(zip(name_hashes, label_ids, strict=True)):
        heap, entry = smallest[label], (-name_hash, -index)
        if len(heap) < spared[label]:
            heapq.heappush(heap, entry)
        elif heap and entry > heap[0]:
            heapq.heapreplace(heap, entry)
    candidates = (  # the first of each class before the second of any
        (rank, -minus_hash, -minus_index)
        for heap in smallest
        for rank, (minus_hash, minus_index) in enumerate(sorted(heap, reverse=True))
    )
    chosen[[index for _, _, index in heapq.nsmallest(count, candidates)]] = True
    return chosen
