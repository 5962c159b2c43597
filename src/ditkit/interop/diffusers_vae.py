"""Autoencoders for DiTPipeline, which has no statistics of latents: they are folded into the weights, exactly.

DiTPipeline decodes `latents / scaling_factor`. ditkit's latents are of mean 0 and variance 1 in each channel; its
decoder's input is `a latent + b` with a and b of each channel. C channels, I channels of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..autoencoders.files import PIXEL, fingerprint, read_config, settings, weights
from ..errors import CheckpointError, UsageError
from ..latents.codec import Codec
from ..runs.model_info import LatentStats, ModelInfo
from .diffusers_config import PIPELINE
from .weights import read_files

# AutoencoderTiny squashes latents, 3 tanh(x / 3): in float32 that is the identity for numbers this small; a power of
# two adds no rounding.
_SHRINK = 4096.0
_KL_SCALE = 0.18215  # the default of AutoencoderKL

Exported = tuple[str, dict[str, Any], dict[str, Tensor]]  # class, settings, tensors


def exported(info: ModelInfo, codec: Codec) -> Exported:
    """The autoencoder of a model as DiTPipeline needs it. Raises UsageError if its class cannot express it."""
    if info.latents is None:
        return identity(info.config.data.channels)
    network: Any = getattr(codec.autoencoder, "network", None)
    if network is None:
        raise UsageError(f"the autoencoder {info.config.autoencoder.name!r} is none of diffusers'", "use kl or tiny")
    config = {key: value for key, value in dict(network.config).items() if not key.startswith("_")}
    scale, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
    factor_C = torch.tensor(info.latents.std, dtype=torch.float64) / scale
    offset_C = torch.tensor(info.latents.mean, dtype=torch.float64) / scale + shift
    tensors = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    if bool((factor_C == factor_C[0]).all()) and float(offset_C.abs().max()) < 1e-9:
        return type(network).__name__, {**config, "scaling_factor": scale / info.latents.std[0]}, tensors
    if info.config.autoencoder.name != "kl":
        raise UsageError(
            f"diffusers' {PIPELINE} cannot express the statistics of this model's latents: its autoencoder "
            f"({info.config.autoencoder.source}) squashes them before its first layer",
            "train with --autoencoder sd-vae-ft-mse or another AutoencoderKL",
        )
    folded = {"scaling_factor": 1.0, "shift_factor": None, "use_quant_conv": True, "use_post_quant_conv": True}
    return type(network).__name__, {**config, **folded}, {**tensors, **_folded(tensors, factor_C, offset_C)}


def _folded(tensors: Mapping[str, Tensor], factor_C: Tensor, offset_C: Tensor) -> dict[str, Tensor]:
    """The 1x1 convolutions before and after the latents, for latents with mean 0 and variance 1."""
    C = len(factor_C)
    weight, bias = _convolution(tensors, "post_quant_conv", C)
    folded = {"post_quant_conv.weight": weight * factor_C, "post_quant_conv.bias": bias + weight @ offset_C}
    weight, bias = _convolution(tensors, "quant_conv", 2 * C)  # to means, then to logarithms of variances
    both = factor_C.repeat(2)[:, None]
    folded["quant_conv.weight"] = torch.cat([weight[:C] / both[:C], weight[C:]])
    folded["quant_conv.bias"] = torch.cat([(bias[:C] - offset_C) / factor_C, bias[C:] - 2 * factor_C.log()])
    return {name: (value[:, :, None, None] if value.ndim == 2 else value).float() for name, value in folded.items()}


def _convolution(tensors: Mapping[str, Tensor], name: str, channels: int) -> tuple[Tensor, Tensor]:
    """Weight (C, C) and bias (C) of a 1x1 convolution in float64, the identity where there is none."""
    if f"{name}.weight" not in tensors:
        return torch.eye(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    return tensors[f"{name}.weight"][:, :, 0, 0].double(), tensors[f"{name}.bias"].double()


def identity(channels: int) -> Exported:
    """An AutoencoderTiny that returns its input to 1e-6, for models of pixels.

    A value and its negative pass the ReLU side by side; their difference is the value again.
    """
    config = {
        "in_channels": channels,
        "out_channels": channels,
        "latent_channels": channels,
        "encoder_block_out_channels": [2 * channels],
        "decoder_block_out_channels": [2 * channels],
        "num_encoder_blocks": [0],
        "num_decoder_blocks": [0],
        "scaling_factor": _SHRINK,
        "shift_factor": 0.0,
        "force_upcast": False,
    }
    eye = torch.eye(channels)
    both = torch.cat([eye, -eye])
    layers = {  # images are in [-1, 1] outside, in [0, 1] inside
        "encoder.layers.0": (torch.cat([eye, torch.zeros_like(eye)]), 0.0),
        "encoder.layers.1": (torch.cat([eye, torch.zeros_like(eye)], dim=1) * 2 / _SHRINK, -1 / _SHRINK),
        "decoder.layers.0": (both, 0.0),
        "decoder.layers.2": (both.T * _SHRINK / 2, 0.5),
    }
    tensors = {}
    for name, (matrix, bias) in layers.items():
        tensors[f"{name}.weight"] = torch.nn.functional.pad(matrix[:, :, None, None], (1, 1, 1, 1))
        tensors[f"{name}.bias"] = torch.full((len(matrix),), bias)
    return "AutoencoderTiny", config, tensors


def read(folder: Path, channels: int, side: int) -> tuple[dict[str, Any], dict[str, Any], LatentStats | None]:
    """The sections [data] and [autoencoder] and the statistics for the autoencoder in `folder`, which stays there.

    Args: `channels` and `side` are those of the latents. Raises CheckpointError for an autoencoder of other channels.
    """
    tree = read_config(folder)
    image_channels = int(tree.get("in_channels", 3))
    if _is_identity(folder, tree, channels):
        return {"image_size": side, "channels": channels}, {"name": PIXEL}, None
    section = settings(str(folder))
    if section["channels"] != channels:
        raise CheckpointError(
            f"the autoencoder in {folder} has latents of {section['channels']} channels, the transformer of {channels}",
            "get the pipeline's folder again",
        )
    scale = float(tree.get("scaling_factor", _KL_SCALE if section["name"] == "kl" else 1.0) or 1.0)
    shift = float(tree.get("shift_factor") or 0.0)  # DiTPipeline ignores it, ditkit does not
    stats = LatentStats(mean=(0.0 - shift * scale,) * channels, std=(1.0,) * channels, autoencoder=fingerprint(folder))
    return {"image_size": side * section["shrink"], "channels": image_channels}, section, stats


def _is_identity(folder: Path, tree: Mapping[str, Any], channels: int) -> bool:
    """Whether it is the one that `identity` makes."""
    name, config, tensors = identity(channels)
    if tree.get("_class_name") != name or any(tree.get(key) != value for key, value in config.items()):
        return False
    stored = read_files(weights(folder))
    return set(stored) == set(tensors) and all(torch.equal(stored[name].float(), tensors[name]) for name in tensors)
