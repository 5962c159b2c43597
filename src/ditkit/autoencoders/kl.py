"""Variational autoencoders with a KL term (Stable Diffusion's, Rombach et al. 2022, section 3.1)."""

from __future__ import annotations

import torch

from ..config import RunConfig
from .contract import Autoencoder
from .diffusers_vae import DiffusersAutoencoder

_TILE = 512  # pixels; larger images are encoded and decoded in overlapping tiles


def autoencoder(config: RunConfig, device: torch.device | str = "cpu") -> Autoencoder:
    """A diffusers AutoencoderKL. Raises DataError when the weights are not there or damaged."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    opened = DiffusersAutoencoder(config, AutoencoderKL, device)
    if max(config.data.image_size) > _TILE:
        opened.network.enable_tiling()
        opened.network.tile_sample_min_size = _TILE
        opened.network.tile_latent_min_size = _TILE // opened.shrink
    return opened
