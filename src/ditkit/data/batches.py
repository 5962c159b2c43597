"""Batches as a function of (seed, step): the same whatever came before, so that resuming needs no state."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .contract import Dataset
from .pixels import normalize
from .prefetch import prefetched
from .resident import BatchTarget, make_store

_REPLACEMENTS = 20  # tried for an image that cannot be read


@dataclass(frozen=True)
class Batch:
    """Images of a step, float32 (B, C, H, W) in [-1, 1], and their labels, int64 (B,)."""

    x_BCHW: Tensor  # on the device that trains, where the data set is kept there; else on the CPU
    label_B: Tensor
    bad: dict[int, str]  # images that could not be read and were replaced, new with this batch: index -> why

    def pin_memory(self) -> Batch:
        """The same, images in memory that a GPU copies from while the CPU goes on; labels change once more before."""
        x_BCHW = self.x_BCHW if self.x_BCHW.is_cuda else self.x_BCHW.pin_memory()
        return Batch(x_BCHW, self.label_B, self.bad)


@runtime_checkable
class Reader(Protocol):
    """Reads many images of a dataset at once, as the network sees them."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray, mirrored: np.ndarray, positions: np.ndarray) -> Batch:
        """The images of some indices (B,), those with a true `mirrored` (B,) mirrored, for positions of the stream.

        Raises DataError when too many cannot be read.
        """
        ...

    def at(self, place: BatchTarget) -> Reader:
        """A reader of the same batches, to the last bit, for another target: kept on its device if there is room."""
        ...


class Batches:
    """An endless stream of shuffled batches: position p = step * batch_size + i shows image order(p // n)[p % n].

    The stream crosses epochs, so that every batch is full even when the set is smaller than one. `share` is the part
    of each batch that this process makes. An image that cannot be read is replaced by another one, which depends on
    the seed and the image alone. A whole set that fits on the device of `place` is kept there, and its batches are
    made there; else decoded images are kept in memory when all of them fit into its `cache_bytes`.
    """

    def __init__(
        self,
        dataset: Dataset | Reader,
        batch_size: int,
        seed: int,
        flip: bool = False,
        share: slice = slice(None),
        place: BatchTarget = BatchTarget(),
    ):
        if len(dataset) == 0:
            raise DataError("the dataset has no images", "check data.path, or hold out fewer (data.validation)")
        self._reader = dataset.at(place) if isinstance(dataset, Reader) else Decoded(dataset, seed, place)
        self._batch_size, self._seed, self._flip, self._share = batch_size, seed, flip, share
        self.pins = place.pins  # what `iterate` gives

    def batch(self, step: int) -> Batch:
        """The batch of a step. Raises DataError when too many images in a row cannot be read."""
        positions = step * self._batch_size + np.arange(self._batch_size, dtype=np.int64)[self._share]
        epochs, places = np.divmod(positions, len(self._reader))
        indices = np.empty_like(positions)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            indices[in_epoch] = order(self._seed, int(epoch), len(self._reader))[places[in_epoch]]
        mirrored = flips(self._seed, positions) if self._flip else np.zeros(len(positions), dtype=bool)
        return self._reader.read(indices, mirrored, positions)

    def replace(self, indices: Collection[int]) -> None:
        """Never look at these images again: others have taken their place, and must keep it when a run goes on."""
        if isinstance(self._reader, Decoded):
            self._reader.replaced.update(indices)

    def iterate(self, start_step: int = 0) -> Generator[Batch, None, None]:
        """The batches of start_step, start_step + 1, …, prepared ahead by a thread that ends with the iterator.

        An error while a batch is prepared is raised where that batch is taken.
        """
        return prefetched(self._pinned_batch, itertools.count(start_step), ahead=2, threads=1, name="ditkit-batches")

    def _pinned_batch(self, step: int) -> Batch:
        batch = self.batch(step)
        return batch.pin_memory() if self.pins else batch

    def without_cache(self) -> Batches:
        """The same stream, keeping nothing in memory: for processes, each of which would keep it all."""
        place = BatchTarget(cache_bytes=0)
        batches = Batches(self._reader, self._batch_size, self._seed, self._flip, self._share, place)
        if isinstance(self._reader, Decoded):
            batches.replace(self._reader.replaced)
        return batches


class Decoded:
    """The pixels of a dataset's images, scaled to [-1, 1] (a Reader)."""

    def __init__(self, dataset: Dataset, seed: int, place: BatchTarget):
        self._dataset, self._seed, self._threads = dataset, seed, place.threads
        self.replaced: set[int] = set()  # images that another takes the place of
        self._bad: dict[int, str] = {}
        self._shape: tuple[int, ...] | None = None
        self._shape = self._decode_all([0])[0].shape[1:]
        self._store = make_store(len(dataset), self._shape, place)
        self._is_stored = np.zeros(len(dataset), dtype=bool)
        self._labels = np.zeros(len(dataset), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, indices: np.ndarray, mirrored: np.ndarray, positions: np.ndarray) -> Batch:
        if self._store is None:
            images_BHWC, label_B = self._decode_all(indices.tolist())
            x_BCHW = normalize(images_BHWC, mirrored)
        else:
            new = np.unique(indices[~self._is_stored[indices]])
            if len(new):
                images_BHWC, self._labels[new] = self._decode_all(new.tolist())
                self._store.put(new, images_BHWC)
                self._is_stored[new] = True
            x_BCHW, label_B = self._store.read(indices, mirrored), self._labels[indices]
        bad, self._bad = self._bad, {}
        return Batch(x_BCHW, torch.from_numpy(label_B), bad)

    def at(self, place: BatchTarget) -> Decoded:
        return Decoded(self._dataset, self._seed, place)

    def _decode_all(self, indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, H, W, C) and labels (N,) of indices or their replacements; notes the bad ones in that order."""
        if self._threads > 1 and len(indices) > 1:
            with ThreadPoolExecutor(self._threads, thread_name_prefix="ditkit-decode") as pool:
                decoded = list(pool.map(self._decode, indices))
        else:
            decoded = [self._decode(index) for index in indices]
        images, labels, bad = zip(*decoded, strict=True)
        for reasons in bad:
            self._bad |= reasons
        return np.stack(images), np.array(labels, dtype=np.int64)

    def _decode(self, index: int) -> tuple[np.ndarray, int, dict[int, str]]:
        """The image and label of an index, or of its replacement, and what could not be read for them."""
        bad: dict[int, str] = {}
        for candidate in itertools.chain([index], replacements(self._seed, index, len(self._dataset))):
            if candidate in self.replaced:
                continue
            try:
                image, label = self._dataset[candidate]
            except DataError as error:
                bad[candidate] = error.message
                continue
            if image.dtype != np.uint8 or (self._shape and image.shape != self._shape):
                raise DataError(
                    f"image {candidate} of the dataset is {image.dtype} {image.shape}, not uint8 {self._shape}",
                    "a dataset must give images of one size",
                )
            return image, label, bad
        raise DataError(f"hardly any image can be read: {bad.get(index, '')}", "check that the files are whole")


def replacements(seed: int, index: int, length: int) -> Iterator[int]:
    """Images to show instead of one that cannot be read."""
    return (stream_seed(seed, f"replacement/{index}/{attempt}") % length for attempt in range(_REPLACEMENTS))


@lru_cache(maxsize=8)
def order(seed: int, epoch: int, length: int) -> np.ndarray:
    """The permutation of an epoch. RandomState, because its stream will never change (NEP 19)."""
    permutation = np.random.RandomState(stream_seed(seed, f"order/{epoch}") % 2**32).permutation(length)
    permutation.flags.writeable = False
    return permutation


def flips(seed: int, positions: np.ndarray) -> np.ndarray:
    """Whether the image at each position is mirrored: a fair bit of (seed, position) by splitmix64 (Steele 2014)."""
    z = positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream_seed(seed, "flip"))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z >> np.uint64(63)).astype(bool)


def stream_seed(seed: int, stream: str) -> int:
    """64 bits that differ between seeds and between streams."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest(), "little")
