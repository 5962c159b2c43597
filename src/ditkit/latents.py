"""Between images and what the network models: latents of unit variance, read from the cache and decoded again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .autoencoders.contract import Autoencoder, decode_in_parts
from .card import LatentStats
from .data.batches import Batch, replacements
from .errors import DataError
from .latent_cache import Latents
from .seeding import generator


class Codec:
    """What turns the network's world into images: the identity for pixels."""

    def __init__(self, autoencoder: Autoencoder, stats: LatentStats | None):
        self.autoencoder, self.stats = autoencoder, stats

    @torch.inference_mode()
    def to_images(self, x_BCHW: Tensor) -> Tensor:
        """Images in about [-1, 1] of what a sampler drew."""
        if self.stats is None:
            return x_BCHW
        mean_C11, std_C11 = self._mean_and_std(x_BCHW)
        return decode_in_parts(self.autoencoder, x_BCHW * std_C11 + mean_C11)

    @torch.inference_mode()
    def from_images(self, image_BCHW: Tensor) -> Tensor:
        """What a sampler would have to draw for these images in [-1, 1]."""
        if self.stats is None:
            return image_BCHW
        mean_C11, std_C11 = self._mean_and_std(image_BCHW)
        return (self.autoencoder.encode(image_BCHW).mean_BCHW - mean_C11) / std_C11

    def _mean_and_std(self, like: Tensor) -> tuple[Tensor, ...]:
        assert self.stats is not None
        both = (self.stats.mean, self.stats.std)
        return tuple(torch.tensor(one, dtype=like.dtype, device=like.device)[:, None, None] for one in both)


class LatentReader:
    """Latents of a data set, made of unit variance channel by channel (a Reader).

    Where the autoencoder has a posterior, each showing of an image is another draw from it, a function of the seed
    and the position.
    """

    def __init__(self, latents: Latents, stats: LatentStats, seed: int):
        self._latents, self._seed = latents, seed
        self._mean_C, self._std_C = (np.array(one, dtype=np.float32) for one in (stats.mean, stats.std))
        self._shards: dict[int, dict[str, np.ndarray]] = {}

    def __getstate__(self) -> Mapping[str, Any]:
        return {**self.__dict__, "_shards": {}}  # a pickled map would be a copy of the file

    def __len__(self) -> int:
        return self._latents.images

    def read(self, indices: np.ndarray, mirrored: np.ndarray, positions: np.ndarray) -> Batch:
        bad: dict[int, str] = {}
        chosen = [self._readable(int(index), bad) for index in indices]
        versions = mirrored.astype(int).tolist()
        pairs = list(zip(chosen, versions, strict=True))
        x_BCHW = np.stack([self._at("mean", *pair) for pair in pairs]).astype(np.float32)
        if "std" in self._shard(0):
            std_BCHW = np.stack([self._at("std", *pair) for pair in pairs]).astype(np.float32)
            noise = (
                torch.randn(std_BCHW.shape[1:], generator=generator(self._seed, "posterior", int(position))).numpy()
                for position in positions
            )
            x_BCHW += std_BCHW * np.stack(list(noise))
        x_BCHW -= self._mean_C[:, None, None]
        x_BCHW /= self._std_C[:, None, None]
        labels = torch.from_numpy(self._latents.label_ids[chosen])
        return Batch(torch.from_numpy(x_BCHW), labels, bad)

    def without_cache(self) -> LatentReader:
        return self

    def all_means(self) -> tuple[Tensor, Tensor, dict[int, str]]:
        """Every readable image's latent, unmirrored, without a draw: float32 (N, C, H, W); labels; the others."""
        bad = self._latents.bad
        good = [index for index in range(len(self)) if index not in bad]
        if not good:
            return torch.empty(0), torch.empty(0, dtype=torch.int64), bad
        x_BCHW = np.stack([self._at("mean", index, 0) for index in good]).astype(np.float32)
        x_BCHW = (x_BCHW - self._mean_C[:, None, None]) / self._std_C[:, None, None]
        return torch.from_numpy(x_BCHW), torch.from_numpy(self._latents.label_ids[good]), bad

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

    def _at(self, name: str, index: int, version: int) -> np.ndarray:
        number, row = divmod(index, self._latents.shard_images)
        return self._shard(number)[name][row, version]

    def _shard(self, number: int) -> dict[str, np.ndarray]:
        if number not in self._shards:
            self._shards[number] = self._latents.shard(number)
        return self._shards[number]
