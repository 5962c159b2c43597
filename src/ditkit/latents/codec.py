"""LatentCodec: network space <-> images; what an autoencoder loses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..autoencoders.contract import Autoencoder, at_once, decode_in_parts, open_autoencoder
from ..autoencoders.files import moved
from ..config import RunConfig
from ..data.contract import Dataset
from ..data.pixels import to_tensor, to_uint8
from ..errors import DataError
from ..io.text import plural
from ..runs.model_info import LatentStats, ModelInfo
from ..runtime.at_once import halving


class Codec:
    """Turns what the network models into images and back: the identity for pixels."""

    def __init__(self, autoencoder: Autoencoder, stats: LatentStats | None):
        self.autoencoder, self.stats = autoencoder, stats

    @torch.inference_mode()
    def to_images(self, x_BCHW: Tensor) -> Tensor:
        """Images in about [-1, 1] of what a sampler drew, latents of unit variance (B, C, h, w)."""
        if self.stats is None:
            return x_BCHW
        mean_C11, std_C11 = self._mean_and_std(x_BCHW)
        latent_BCHW, shrink = x_BCHW * std_C11 + mean_C11, self.autoencoder.shrink
        most = min(len(x_BCHW), at_once(x_BCHW.shape[-2] * shrink, x_BCHW.shape[-1] * shrink))
        return halving(partial(decode_in_parts, self.autoencoder, latent_BCHW), most, x_BCHW.device)

    @torch.inference_mode()
    def from_images(self, image_BCHW: Tensor) -> Tensor:
        """What a sampler would have to draw for these images (B, C, H, W) in [-1, 1]."""
        if self.stats is None:
            return image_BCHW
        mean_C11, std_C11 = self._mean_and_std(image_BCHW)
        return (self.autoencoder.encode(image_BCHW).mean_BCHW - mean_C11) / std_C11

    def _mean_and_std(self, like: Tensor) -> tuple[Tensor, ...]:
        assert self.stats is not None
        values = (self.stats.mean, self.stats.std)
        return tuple(torch.tensor(value_C, dtype=like.dtype, device=like.device)[:, None, None] for value_C in values)


def open_codec(info: ModelInfo, device: str | torch.device, folder: str | Path | None = None) -> Codec:
    """Decodes what a model's network draws. Raises DataError if its autoencoder is missing or another one."""
    config = info.config
    if folder is not None:
        config = replace(config, autoencoder=moved(config.autoencoder, folder))
    autoencoder = open_autoencoder(config, device)
    check_same_autoencoder(autoencoder, info.latents)
    return Codec(autoencoder, info.latents)


def check_same_autoencoder(autoencoder: Autoencoder, stats: LatentStats | None) -> None:
    """Raise DataError if the latents were made by other weights; imported models do not say by which."""
    if stats and stats.autoencoder and autoencoder.fingerprint != stats.autoencoder:
        raise DataError(
            "the autoencoder's weights are not those that the network was trained with", "put those files back"
        )


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """An image before and after."""

    original: np.ndarray  # uint8 (H, W, C)
    decoded: np.ndarray
    label: str | None

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio in dB, of levels 0 to 255; more is better, infinite for equal images."""
        difference = self.original.astype(np.float64) - self.decoded
        error = float((difference**2).mean())
        return 10 * math.log10(255**2 / error) if error else math.inf


@torch.inference_mode()
def reconstruct(
    config: RunConfig,
    dataset: Dataset,
    count: int,
    *,
    device: torch.device | str = "cpu",
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> list[Reconstruction]:
    """Up to `count` readable images, spread over the data set, as the network would see them and as they come back.

    Raises DataError if none can be read, or the autoencoder is missing.
    """
    autoencoder = open_autoencoder(config, device)
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()
    pairs: list[Reconstruction] = []
    for number, index in enumerate(indices, start=1):
        try:
            image, label_id = dataset[index]
        except DataError:
            continue
        image_BCHW = to_tensor(image[None]).to(device)
        (decoded,) = to_uint8(autoencoder.decode(autoencoder.encode(image_BCHW).mean_BCHW))
        label = dataset.labels[label_id] if dataset.labels else None
        pairs.append(Reconstruction(original=image, decoded=decoded, label=label))
        on_image(number, len(indices))
    if not pairs:
        raise DataError("none of these images can be read", "`ditkit data show` names them and says why")
    return pairs


def summary(pairs: Sequence[Reconstruction]) -> dict[str, float]:
    """The mean, worst and best PSNR in dB of images that are not equal; infinite where all are."""
    finite = [pair.psnr for pair in pairs if math.isfinite(pair.psnr)] or [math.inf]
    return {"psnr_db": sum(finite) / len(finite), "worst_db": min(finite), "best_db": max(finite)}


def summary_lines(figures: Mapping[str, float], count: int, config: RunConfig) -> list[str]:
    """What was encoded and decoded, and how well, in words."""
    (height, width), (channels, *latent) = config.data.image_size, config.shape
    return [
        f"{plural(count, 'image')} of {height}x{width} as {channels}x{latent[0]}x{latent[1]} latents and back",
        "PSNR {psnr_db:.1f} dB on average, from {worst_db:.1f} to {best_db:.1f}".format(**figures),
    ]
