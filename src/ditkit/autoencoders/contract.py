"""What an autoencoder is, and how one is opened."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..config import RunConfig
from ..registry import AUTOENCODERS

_PIXELS_AT_ONCE = 1 << 20  # of all images of a part


class Posterior(NamedTuple):
    """What an image may be encoded as: a Gaussian for each latent value, or a single value (std None)."""

    mean_BCHW: Tensor
    std_BCHW: Tensor | None = None


class Autoencoder(Protocol):
    """Turns images into latents, which the network models, and back; scales and shifts them as its own config says."""

    channels: int  # of a latent
    shrink: int  # an image of height H has a latent of height H / shrink
    fingerprint: str  # changes with its weights

    def encode(self, image_BCHW: Tensor) -> Posterior:
        """Latents (B, channels, H/shrink, W/shrink) of images in [-1, 1]."""
        ...

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Images of latents; may leave [-1, 1] a little."""
        ...


def open_autoencoder(config: RunConfig, device: torch.device | str = "cpu") -> Autoencoder:
    """The autoencoder that a config names. Raises UsageError if it is unknown, DataError if its files are missing."""
    return AUTOENCODERS.load(config.autoencoder.name)(config, device)


def at_once(height: int, width: int) -> int:
    """How many images of so many pixels an autoencoder is given at a time, so that memory stays bounded."""
    return max(1, _PIXELS_AT_ONCE // (height * width))


def decode_in_parts(autoencoder: Autoencoder, latent_BCHW: Tensor, part: int) -> Tensor:
    """Images of any number of latents, `part` at a time."""
    return torch.cat([autoencoder.decode(part_BCHW) for part_BCHW in latent_BCHW.split(part)])


def encode_in_parts(autoencoder: Autoencoder, image_BCHW: Tensor, part: int) -> Posterior:
    """Latents of any number of images, `part` at a time."""
    posteriors = [autoencoder.encode(part_BCHW) for part_BCHW in image_BCHW.split(part)]
    stds = [posterior.std_BCHW for posterior in posteriors if posterior.std_BCHW is not None]
    return Posterior(torch.cat([posterior.mean_BCHW for posterior in posteriors]), torch.cat(stds) if stds else None)
