"""No autoencoder: the network models the pixels themselves."""

from __future__ import annotations

from torch import Tensor

from ..config import RunConfig
from .contract import Autoencoder


def autoencoder(config: RunConfig) -> Autoencoder:
    """The identity on images of the config's channels."""
    return Pixel(config.data.channels)


class Pixel:
    """The identity."""

    shrink = 1

    def __init__(self, channels: int):
        self.channels = channels

    def encode(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        return latent_BCHW
