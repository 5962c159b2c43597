"""What every dataset is, and how one is opened."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from ..config import DataConfig
from ..registry import DATASETS

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
        """Image as uint8 (height, width, channels), and its label id."""
        ...


def open_dataset(config: DataConfig, split: Split) -> Dataset:
    """The dataset that a config names. Raises DitkitError when it is missing, empty or malformed."""
    return DATASETS.load(config.name)(config, split)


def holdout(names: Sequence[str], label_ids: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """Indices to train on and indices held out for validation, both ascending.

    At most `count` images and a tenth of all are held out, equally many of each class as far as a class can spare
    them (a tenth of it, at least one of two). The choice depends on the names alone, by hash: it is the same on every
    machine, and hardly changes when images are added.
    """
    hashes = [hashlib.blake2b(os.fsencode(name), digest_size=8).digest() for name in names]
    sizes, seen, candidates = Counter(label_ids), Counter[int](), []
    for index in sorted(range(len(names)), key=hashes.__getitem__):
        label = label_ids[index]
        spare = max(sizes[label] // 10, min(sizes[label] - 1, 1))
        if seen[label] < spare:
            candidates.append((seen[label], hashes[index], index))
        seen[label] += 1
    held = sorted(index for _, _, index in sorted(candidates)[: min(count, len(names) // 10)])
    taken = set(held)
    return [index for index in range(len(names)) if index not in taken], held
