"""Tiny autoencoders without a posterior (TAESD and its kin): 2.4M parameters, quick even on a CPU."""

from __future__ import annotations

import torch

from ..config import RunConfig
from .contract import Autoencoder
from .diffusers_vae import DiffusersAutoencoder


def autoencoder(config: RunConfig, device: torch.device | str = "cpu") -> Autoencoder:
    """A diffusers AutoencoderTiny; not in tiles, because its own tiling knows four channels only.

    Raises DataError when the weights are not there or damaged.
    """
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    return DiffusersAutoencoder(config, AutoencoderTiny, device)
