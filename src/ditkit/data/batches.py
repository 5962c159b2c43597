"""Batches as a function of (seed, step): the same whatever came before, so that resuming needs no state."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..errors import DitkitError
from .contract import Dataset

MOST_CACHE_BYTES = 2 << 30


class Batches:
    """An endless stream of shuffled batches: position p = step * batch_size + i shows image order(p // n)[p % n].

    The stream crosses epochs, so that every batch is full even when the set is smaller than one. Decoded images are
    kept in memory when the whole set fits into `cache_bytes`.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        flip: bool = False,
        workers: int = 0,
        cache_bytes: int = MOST_CACHE_BYTES,
    ):
        if len(dataset) == 0:
            raise DitkitError("the dataset has no images", "check data.path, or hold out fewer (data.validation)")
        self._dataset, self._batch_size, self._seed, self._flip = dataset, batch_size, seed, flip
        self._threads = max(1, workers)
        first, _ = dataset[0]
        self._shape = first.shape
        self._known = np.zeros(len(dataset), dtype=bool)
        self._labels = np.zeros(len(dataset), dtype=np.int64)
        fits = len(dataset) * first.nbytes <= cache_bytes
        self._cache = np.empty((len(dataset), *first.shape), dtype=np.uint8) if fits else None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images of a step, float32 (B, C, H, W) in [-1, 1], and their labels, int64 (B,)."""
        positions = step * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        epochs, places = np.divmod(positions, len(self._dataset))
        indices = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            indices[chosen] = order(self._seed, int(epoch), len(self._dataset))[places[chosen]]
        images_BHWC, label_B = self._read(indices)
        if self._flip:
            mirrored = flips(self._seed, positions)
            images_BHWC[mirrored] = images_BHWC[mirrored, :, ::-1]
        # In numpy, because torch would start a second team of threads when called outside the main thread.
        x_BCHW = np.divide(images_BHWC.transpose(0, 3, 1, 2), np.float32(127.5), dtype=np.float32, order="C")
        x_BCHW -= 1
        return torch.from_numpy(x_BCHW), torch.from_numpy(label_B)

    def iterate(self, start_step: int = 0) -> Generator[tuple[Tensor, Tensor], None, None]:
        """The batches of start_step, start_step + 1, …, prepared ahead by threads that end with the iterator.

        What goes wrong while a batch is prepared is raised when that batch is asked for.
        """
        with ThreadPoolExecutor(self._threads, thread_name_prefix="ditkit-batches") as pool:
            steps = itertools.count(start_step)
            ahead = deque(pool.submit(self.batch, next(steps)) for _ in range(self._threads + 1))
            try:
                while True:
                    ready = ahead.popleft()
                    ahead.append(pool.submit(self.batch, next(steps)))
                    yield ready.result()
            finally:
                for future in ahead:
                    future.cancel()

    def _read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images, uint8 (B, H, W, C), that may be written to, and labels of some indices."""
        if self._cache is None:
            decoded = [self._decode(int(index)) for index in indices]
            return np.stack([image for image, _ in decoded]), np.array([label for _, label in decoded], dtype=np.int64)
        for index in np.unique(indices[~self._known[indices]]):
            self._cache[index], self._labels[index] = self._decode(int(index))
            self._known[index] = True  # last: another thread may look in between
        return self._cache[indices], self._labels[indices]

    def _decode(self, index: int) -> tuple[np.ndarray, int]:
        image, label = self._dataset[index]
        if image.shape != self._shape or image.dtype != np.uint8:
            raise DitkitError(
                f"image {index} of the dataset is {image.dtype} {image.shape}, not uint8 {self._shape}",
                "a dataset must give images of one size",
            )
        return image, label


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
