"""What every dataset is, and how one is opened."""

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
    """Images of one size with integer labels.

    `labels` holds the class names in the order of their ids; it is empty for an unconditional dataset, whose every
    label id is 0 (the null label). `fingerprint` changes when the files or their order do.
    """

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image as uint8 (height, width, channels), and its label id. Several threads may ask at once."""
        ...


def open_dataset(config: DataConfig, split: Split) -> Dataset:
    """The dataset that a config names. Raises DitkitError when it is missing, empty or malformed."""
    return DATASETS.load(config.name)(config, split)


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """The two data sets of a run, opened once and handed on."""

    train: Dataset
    validation: Dataset


def open_datasets(config: DataConfig) -> Datasets:
    """Both data sets that a config names. Raises DitkitError as `open_dataset` does."""
    return Datasets(train=open_dataset(config, "train"), validation=open_dataset(config, "validation"))


def holdout(names: Sequence[str], label_ids: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """Indices to train on and indices held out for validation, both ascending; see `held_out`."""
    held = held_out(map(hashed, map(os.fsencode, names)), np.asarray(label_ids, dtype=np.int64), count)
    return np.flatnonzero(~held).tolist(), np.flatnonzero(held).tolist()


def held_out(name_hashes: Iterable[int], label_ids: np.ndarray, count: int) -> np.ndarray:
    """Which images are held out for validation, as booleans.

    At most `count` images and a tenth of all are held out, equally many of each class as far as a class can spare
    them (a tenth of it, at least one of two). The choice depends on the names alone, by hash: it is the same on every
    machine, and hardly changes when images are added.
    """
    held = np.zeros(len(label_ids), dtype=bool)
    sizes, count = np.bincount(label_ids), min(count, len(held) // 10)
    spare, most = np.maximum(sizes // 10, np.minimum(sizes - 1, 1)), 1  # most: of a class, at least
    while np.minimum(spare, most).sum() < count and most < spare.max():
        most *= 2
    spared = np.minimum(spare, most).tolist()
    smallest: list[list[tuple[int, int]]] = [[] for _ in sizes]  # of each class, as heaps, negative: no more are held
    for index, (name_hash, label) in enumerate(zip(name_hashes, label_ids, strict=True)):
        heap, one = smallest[label], (-name_hash, -index)
        if len(heap) < spared[label]:
            heapq.heappush(heap, one)
        elif heap and one > heap[0]:
            heapq.heapreplace(heap, one)
    candidates = (
        (place, -minus_hash, -minus_index)
        for heap in smallest
        for place, (minus_hash, minus_index) in enumerate(sorted(heap, reverse=True))
    )
    held[[index for _, _, index in heapq.nsmallest(count, candidates)]] = True
    return held
