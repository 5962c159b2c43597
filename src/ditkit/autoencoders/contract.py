"""What an autoencoder is, and how one is opened."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..config import RunConfig
from ..registry import AUTOENCODERS


class Autoencoder(Protocol):
    """Turns images into what the network models, and back; scaled both ways inside."""

    channels: int  # of a latent
    shrink: int  # an image of height H has a latent of height H / shrink

    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Latents (B, channels, H/shrink, W/shrink), of about unit variance, of images in [-1, 1]."""
        ...

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Images of latents; may leave [-1, 1] a little."""
        ...


def open_autoencoder(config: RunConfig) -> Autoencoder:
    """The autoencoder that a config names. Raises UsageError if nobody knows it."""
    return AUTOENCODERS.load(config.autoencoder.name)(config)
