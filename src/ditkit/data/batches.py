"""Batches as a function of (seed, step): the same whatever came before, so that resuming needs no state."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .contract import Dataset
from .pixels import made_ready
from .resident import MOST_CACHE_BYTES, BatchTarget, make_store

_REPLACEMENTS = 20  # tried for an image that cannot be read


@dataclass(frozen=True)
class Batch:
    """Images of a step, float32 (B, C, H, W) in [-1, 1], and their labels, int64 (B,)."""

    x_BCHW: Tensor  # on the device that trains, where the data set is kept there; else on the CPU
    label_B: Tensor
    bad: dict[int, str]  # images that could not be read and were replaced, new with this batch: index -> why

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU copies from while the CPU goes on."""
        x_BCHW = self.x_BCHW if self.x_BCHW.is_cuda else self.x_BCHW.pin_memory()
        return Batch(x_BCHW, self.label_B.pin_memory(), self.bad)


@runtime_checkable
class Reader(Protocol):
    """What gives many images of a dataset at once, ready for the network."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray, mirrored: np.ndarray, positions: np.ndarray) -> Batch:
        """Images, of which some are mirrored, for these positions of the stream. Raises DataError."""
        ...

    def without_cache(self) -> Reader:
        """The same, keeping nothing in memory: for processes, each of which would keep it all."""
        ...

    def at(self, place: BatchTarget) -> Reader:
        """The same batches, to the last bit, made and everything kept on the device of a place, if there is room."""
        ...


class Batches:
    """An endless stream of shuffled batches: position p = step * batch_size + i shows image order(p // n)[p % n].

    The stream crosses epochs, so that every batch is full even when the set is smaller than one. `share` is the part
    of each batch that is made here. An image that cannot be read is replaced by another one that depends on the seed
    and the image alone. A whole set that fits on the device of `place` is kept there, and its batches are made there;
    decoded images of another are kept in memory when all of them fit into `cache_bytes`.
    """

    def __init__(
        self,
        dataset: Dataset | Reader,
        batch_size: int,
        seed: int,
        flip: bool = False,
        share: slice = slice(None),
        cache_bytes: int = MOST_CACHE_BYTES,
        place: BatchTarget = BatchTarget(),
    ):
        if len(dataset) == 0:
            raise DataError("the dataset has no images", "check data.path, or hold out fewer (data.validation)")
        is_reader = isinstance(dataset, Reader)
        self._reader = dataset.at(place) if is_reader else Decoded(dataset, seed, cache_bytes, place)
        self._batch_size, self._seed, self._flip, self._share = batch_size, seed, flip, share
        self.pins = place.pins  # what `iterate` gives

    def batch(self, step: int) -> Batch:
        """The batch of a step. Raises DataError when too many images in a row cannot be read."""
        positions = step * self._batch_size + np.arange(self._batch_size, dtype=np.int64)[self._share]
        epochs, places = np.divmod(positions, len(self._reader))
        indices = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            indices[chosen] = order(self._seed, int(epoch), len(self._reader))[places[chosen]]
        mirrored = flips(self._seed, positions) if self._flip else np.zeros(len(positions), dtype=bool)
        return self._reader.read(indices, mirrored, positions)

    def iterate(self, start_step: int = 0) -> Generator[Batch, None, None]:
        """The batches of start_step, start_step + 1, …, prepared ahead by a thread that ends with the iterator.

        What goes wrong while a batch is prepared is raised when that batch is asked for.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="ditkit-batches") as pool:
            steps = itertools.count(start_step)
            ahead = deque(pool.submit(self._ahead, next(steps)) for _ in range(2))
            try:
                while True:
                    ready = ahead.popleft()
                    ahead.append(pool.submit(self._ahead, next(steps)))
                    yield ready.result()
            finally:
                for future in ahead:
                    future.cancel()

    def _ahead(self, step: int) -> Batch:
        batch = self.batch(step)
        return batch.pin_memory() if self.pins else batch

    def without_cache(self) -> Batches:
        """The same stream, keeping nothing in memory: for processes, each of which would keep it all."""
        return Batches(self._reader.without_cache(), self._batch_size, self._seed, self._flip, self._share)


class Decoded:
    """The pixels of a dataset's images, scaled to [-1, 1] (a Reader)."""

    def __init__(self, dataset: Dataset, seed: int, cache_bytes: int, place: BatchTarget = BatchTarget()):
        self._dataset, self._seed, self._cache_bytes, self._threads = dataset, seed, cache_bytes, place.threads
        self._bad: dict[int, str] = {}
        self._shape: tuple[int, ...] | None = None
        self._shape = self._decoded([0])[0][0].shape
        self._known = np.zeros(len(dataset), dtype=bool)
        self._labels = np.zeros(len(dataset), dtype=np.int64)
        self._kept = make_store(len(dataset), self._shape, cache_bytes, place)

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, indices: np.ndarray, mirrored: np.ndarray, positions: np.ndarray) -> Batch:
        if self._kept is None:
            decoded = self._decoded(indices.tolist())
            x_BCHW = made_ready(np.stack([image for image, _ in decoded]), mirrored)
            labels = np.array([label for _, label in decoded], dtype=np.int64)
        else:
            new = np.unique(indices[~self._known[indices]])
            if len(new):
                decoded = self._decoded(new.tolist())
                self._kept.put(new, np.stack([image for image, _ in decoded]))
                self._labels[new], self._known[new] = [label for _, label in decoded], True
            x_BCHW, labels = self._kept.ready(indices, mirrored), self._labels[indices]
        bad, self._bad = self._bad, {}
        return Batch(x_BCHW, torch.from_numpy(labels), bad)

    def without_cache(self) -> Decoded:
        return Decoded(self._dataset, self._seed, cache_bytes=0)

    def at(self, place: BatchTarget) -> Decoded:
        return Decoded(self._dataset, self._seed, self._cache_bytes, place)

    def _decoded(self, indices: list[int]) -> list[tuple[np.ndarray, int]]:
        """Images and labels of some indices, or of their replacements; the bad ones are noted in the same order."""
        if self._threads > 1 and len(indices) > 1:
            with ThreadPoolExecutor(self._threads, thread_name_prefix="ditkit-decode") as pool:
                found = list(pool.map(self._decode, indices))
        else:
            found = [self._decode(index) for index in indices]
        for _, _, bad in found:
            self._bad |= bad
        return [(image, label) for image, label, _ in found]

    def _decode(self, index: int) -> tuple[np.ndarray, int, dict[int, str]]:
        """The image and label of an index, or of its replacement, and what could not be read for them."""
        bad: dict[int, str] = {}
        for chosen in itertools.chain([index], replacements(self._seed, index, len(self._dataset))):
            try:
                image, label = self._dataset[chosen]
            except DataError as error:
                bad[chosen] = error.message
                continue
            if image.dtype != np.uint8 or (self._shape and image.shape != self._shape):
                raise DataError(
                    f"image {chosen} of the dataset is {image.dtype} {image.shape}, not uint8 {self._shape}",
                    "a dataset must give images of one size",
                )
            return image, label, bad
        raise DataError(f"hardly any image can be read: {bad[index]}", "check that the files are whole")


def replacements(seed: int, index: int, length: int) -> Iterator[int]:
    """Images to show instead of one that cannot be read."""
    return (_hash(seed, f"replacement/{index}/{attempt}") % length for attempt in range(_REPLACEMENTS))


@lru_cache(maxsize=8)
def order(seed: int, epoch: int, length: int) -> np.ndarray:
    """The permutation of an epoch. RandomState, because its stream is frozen for good (NEP 19)."""
    permutation = np.random.RandomState(_hash(seed, f"order/{epoch}") % 2**32).permutation(length)
    permutation.flags.writeable = False
    return permutation


def flips(seed: int, positions: np.ndarray) -> np.ndarray:
    """Whether the image at each position is mirrored: a fair bit of (seed, position) by splitmix64 (Steele 2014)."""
    z = positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(_hash(seed, "flip"))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z >> np.uint64(63)).astype(bool)


def _hash(seed: int, stream: str) -> int:
    """64 bits that differ between seeds and between streams."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest(), "little")
