"""LatentReader: latents as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.batches import Batch, replacements
from ..data.resident import BatchTarget
from ..errors import DataError
from ..io.reading import most_open_files
from ..runs.model_info import LatentStats
from ..runtime.device import give_back
from ..runtime.failures import is_out_of_memory
from ..seeding import generator
from .cache import Latents

_READERS = 4  # that may read latents at the same time, with room for other files
Array = Any  # np.ndarray, or a Tensor where the batches are made on a device: the arithmetic here is the same


class LatentReader:
    """Latents of a data set, scaled to mean 0 and variance 1 channel by channel (a Reader).

    Where the autoencoder has a posterior, each showing of an image is another draw from it, a function of the seed
    and the position. With a `device`, they are kept and the batches made there; else they are read from the files.
    """

    def __init__(self, latents: Latents, stats: LatentStats, seed: int, device: torch.device | None = None):
        self._latents, self._stats, self._seed, self._device = latents, stats, seed, device
        mean, std = (np.array(value_C, dtype=np.float32)[:, None, None] for value_C in (stats.mean, stats.std))
        self._mean_C11, self._std_C11 = self._here(mean), self._here(std)
        self._shard = _shards(latents, device)

    def __getstate__(self) -> Mapping[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_shard"}  # which would be copies

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._shard = _shards(self._latents, self._device)

    def __len__(self) -> int:
        return self._latents.images

    @property
    def label_ids(self) -> np.ndarray:
        """The label id of each image, int64 (N,)."""
        return self._latents.label_ids

    def read(self, indices: np.ndarray, mirrored: np.ndarray, positions: np.ndarray) -> Batch:
        bad: dict[int, str] = {}
        chosen = [self._readable(int(index), bad) for index in indices]
        versions = mirrored.astype(int).tolist()
        pairs = list(zip(chosen, versions, strict=True))
        x_BCHW = self._stacked("mean", pairs)
        if "std" in self._shard(0):
            std_BCHW = self._stacked("std", pairs)
            noise = (
                torch.randn(std_BCHW.shape[1:], generator=generator(self._seed, "posterior", int(position))).numpy()
                for position in positions
            )
            x_BCHW += std_BCHW * self._here(np.stack(list(noise)))
        x_BCHW -= self._mean_C11
        x_BCHW /= self._std_C11
        labels = torch.from_numpy(self._latents.label_ids[chosen])
        return Batch(torch.as_tensor(x_BCHW), labels, bad)

    def at(self, place: BatchTarget) -> LatentReader:
        fits = sum(shard["bytes"] for shard in self._latents.shards) <= place.most_bytes
        if fits and (reader := self._all_on(place.device)):
            return reader
        # The same one has shards that are open already.
        return self if self._device is None else LatentReader(self._latents, self._stats, self._seed)

    def _all_on(self, device: torch.device) -> LatentReader | None:
        """A reader with all latents on a device from now on, as room may be gone later; None where it is too small."""
        reader = LatentReader(self._latents, self._stats, self._seed, device)
        try:
            for number in range(len(self._latents.shards)):
                reader._shard(number)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reader = None
        if reader is None:
            give_back(device)
        return reader

    def all_means(self) -> tuple[Tensor, Tensor, dict[int, str]]:
        """The mean latent of every readable image, unmirrored: float32 (N, C, H, W); labels; reasons of the others."""
        bad = self._latents.bad
        good = [index for index in range(len(self)) if index not in bad]
        if not good:
            return torch.empty(0), torch.empty(0, dtype=torch.int64), bad
        x_BCHW = self._stacked("mean", [(index, 0) for index in good])
        x_BCHW = (x_BCHW - self._mean_C11) / self._std_C11
        return torch.as_tensor(x_BCHW), torch.from_numpy(self._latents.label_ids[good]), bad

    def _readable(self, index: int, bad: dict[int, str]) -> int:
        """The index, or that of the image that takes its place."""
        if index not in self._latents.bad:
            return index
        bad[index] = self._latents.bad[index]
        for other in replacements(self._seed, index, len(self)):
            if other not in self._latents.bad:
                return other
            bad[other] = self._latents.bad[other]
        raise DataError(f"hardly any image can be read: {bad[index]}", "check that the files are whole")

    def _stacked(self, name: str, pairs: list[tuple[int, int]]) -> Array:
        """`mean` or `std` of these images and versions: float32 (B, C, H, W)."""
        rows_of = ((divmod(index, self._latents.shard_images), version) for index, version in pairs)
        rows: Iterator[Any] = (self._shard(number)[name][row, version] for (number, row), version in rows_of)
        if self._device is None:
            return np.stack([row.astype(np.float32) for row in rows])  # copies: a view would keep its file open
        return torch.stack(list(rows)).float()

    def _here(self, array: np.ndarray) -> Array:
        return _on(self._device, array)


def _on(device: torch.device | None, array: np.ndarray) -> Array:
    """In numpy, because torch would start a second team of threads when called outside the main thread."""
    return array if device is None else torch.tensor(array, device=device)


def _shards(latents: Latents, device: torch.device | None) -> Callable[[int], dict[str, Array]]:
    """What gives a shard by its number. One that is read from its file keeps that open, so that not all may stay."""

    @lru_cache(maxsize=most_open_files() // _READERS if device is None else None)
    def shard(number: int) -> dict[str, Array]:
        return {name: _on(device, array) for name, array in latents.shard(number).items()}

    return shard
