"""Real autoencoders of diffusers with random weights, small enough to make in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SHRINK = 4


def write_tiny(folder: Path, *, seed: int = 0, channels: int = 5, **changes: Any) -> Path:
    """An AutoencoderTiny of a few thousand parameters, in diffusers' layout; returns the folder."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
        blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
        network = AutoencoderTiny(latent_channels=channels, **{**sizes, **blocks, **changes})
    network.save_pretrained(folder, safe_serialization=True)
    return folder


def write_kl(folder: Path, *, seed: int = 0, channels: int = 3, levels: int = 3, **changes: Any) -> Path:
    """An AutoencoderKL of a few thousand parameters, in diffusers' layout; returns the folder."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    kinds = ("DownEncoderBlock2D",) * levels, ("UpDecoderBlock2D",) * levels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoencoderKL(
            down_block_types=kinds[0],
            up_block_types=kinds[1],
            block_out_channels=(8,) * levels,
            norm_num_groups=4,
            latent_channels=channels,
            **changes,
        )
    network.save_pretrained(folder, safe_serialization=True)
    return folder


MAKERS = {"tiny": write_tiny, "kl": write_kl}
