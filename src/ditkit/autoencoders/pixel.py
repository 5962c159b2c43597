"""No autoencoder: the network models the pixels themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import RunConfig
from .contract import Autoencoder, Posterior


def autoencoder(config: RunConfig, device: torch.device | str = "cpu") -> Autoencoder:
    """The identity on images of the config's channels."""
    return Pixel(config.data.channels)


class Pixel:
    """The identity."""

    shrink = 1
    fingerprint = "pixel"

    def __init__(self, channels: int):
        self.channels = channels

    def encode(self, image_BCHW: Tensor) -> Posterior:
        return Posterior(image_BCHW)

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        return latent_BCHW
