"""Meta's DiT and its sister SiT: one set of tensor names, latents of Stable Diffusion's autoencoder, 1000 classes.

DiT (Peebles & Xie 2022) predicts noise and, in as many channels more, where the variance lies. SiT (Ma et al. 2024)
is a flow: its t is 1 for data and 0 for noise, its velocity data minus noise, and half of its output channels are
never used. ditkit's flows go the other way, which is folded into the weights. D width, C channels, P patch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import recipes
from ..autoencoders.files import settings as autoencoder_settings
from ..models import presets
from ..runs.model_info import LatentStats, ModelInfo
from . import remap
from .base import ForeignModel, class_names
from .remap import Layer, block_layers, linear, patch_layer, reordered
from .state_dicts import Choice

DIT, SIT = "Meta's DiT", "SiT"
MARK = "x_embedder.proj.weight"
_MODULATION = (0, 1, 3, 4, 2, 5)  # ditkit's shift, scale, shift, scale, gate, gate in its shift, scale, gate, shift, …
_LAYERS = {"attention.qkv": "attn.qkv", "attention.out": "attn.proj", "mlp.first": "mlp.fc1", "mlp.second": "mlp.fc2"}
_AUTOENCODER = "sd-vae-ft-ema"


def read(choice: Choice, about: Mapping[str, Any], path: Path, heads: int | None = None) -> ForeignModel:
    """The model of a file: the weights chosen, and what it says `about` them. Raises CheckpointError for damage."""
    with remap.reading(path, "a DiT of Meta's"):
        states = [remap.state_dict(network.tensors) for network in choice.networks]
        sit = _is_sit(states[0], path)
        info = _model_info(states[0], about.get("args"), heads, path, sit=sit)
        ema, *raw = [_converted(state, info, sit=sit) for state in states]
    return ForeignModel(origin=SIT if sit else DIT, info=info, ema=ema, raw=raw[0] if raw else None)


def _is_sit(tensors: Mapping[str, Tensor], path: Path) -> bool:
    """By the unused channels, which training leaves at zero, else by the file's name: the tensors are alike."""
    rows, used = tensors["final_layer.linear.weight"], tensors[MARK].shape[1]
    twice = len(rows) == 2 * tensors[MARK][0].numel()
    if twice and not rows.view(-1, 2 * used, rows.shape[1])[:, used:].any():
        return True
    return re.search(r"(?<![a-z])sit(?![a-z])", path.name.lower()) is not None


def _model_info(
    tensors: Mapping[str, Tensor], arguments: Any, heads: int | None, path: Path, *, sit: bool
) -> ModelInfo:
    width, channels, patch, _ = tensors[MARK].shape
    side = math.isqrt(tensors["pos_embed"].shape[1]) * patch
    labels = class_names(len(tensors["y_embedder.embedding_table.weight"]) - 1)
    size = presets.SIZES.get(str((arguments or {}).get("model", "")).lower().partition("/")[0].replace("sit", "dit"))
    usual = {row[0]: row[2] for row in presets.SIZES.values() if row[0] >= presets.SIZES["dit-s"][0]}
    learned_sigma = not sit and len(tensors["final_layer.linear.weight"]) == 2 * tensors[MARK][0].numel()
    flow = {"process": "flow", "objective": "velocity", "timesteps": 1}
    diffusion = {"process": "diffusion", "objective": "learned-sigma" if learned_sigma else "epsilon"}
    autoencoder = autoencoder_settings(_AUTOENCODER)
    if channels != autoencoder["channels"]:
        raise ValueError(f"latents of {channels} channels")
    step = int(path.stem) if re.fullmatch(r"\d{5,9}", path.stem) else 0  # its training writes 0400000.pt
    config = recipes.build(
        {
            "data": {"name": "folder", "image_size": side * autoencoder["shrink"], "channels": 3, "flip": True},
            "model": {
                "patch": patch,
                "width": width,
                "depth": len([name for name in tensors if name.endswith(".attn.qkv.weight")]),
                "heads": heads or (size[2] if size else remap.known_heads(width, usual, path)),
                "mlp_ratio": len(tensors["blocks.0.mlp.fc1.weight"]) / width,
                "learned_sigma": learned_sigma,
                "frequency_size": tensors["t_embedder.mlp.0.weight"].shape[1],
            },
            "diffusion": {**(flow if sit else diffusion), "stratified": False},
            "autoencoder": autoencoder,
            "sample": {"sampler": "flow-dpmpp" if sit else "dpmpp", "steps": 25, "guidance": 4.0},
            "train": {"steps": max(1, step)},
        }
    )
    stats = LatentStats(mean=(0.0,) * channels, std=(1.0,) * channels, autoencoder="")
    return ModelInfo(config=config, labels=labels, step=step, latents=stats)


def _converted(tensors: dict[str, Tensor], info: ModelInfo, *, sit: bool) -> dict[str, Tensor]:
    """ditkit's tensors; removes all of the others."""
    remap.check_positions(tensors.pop("pos_embed")[0], info.config)
    weight, bias = linear(tensors, "t_embedder.mlp.0")
    layers = {
        "patch_in": patch_layer(tensors, "x_embedder.proj"),
        "time.first": ((remap.shift_timestep_features(weight, start=1, sign=-1) if sit else weight), bias),
        "time.second": linear(tensors, "t_embedder.mlp.2"),
    }
    table = tensors.pop("y_embedder.embedding_table.weight")
    for index in range(info.config.model.depth):
        block = f"blocks.{index}"
        layers |= {f"{block}.{name}": layer for name, layer in block_layers(tensors, block, _LAYERS).items()}
        layers[f"{block}.modulation"] = reordered(linear(tensors, f"{block}.adaLN_modulation.1"), _MODULATION)
    layers["final.modulation"] = linear(tensors, "final_layer.adaLN_modulation.1")
    layers["final.linear"] = _prediction(linear(tensors, "final_layer.linear"), info, sit=sit)
    remap.nothing_left(tensors)
    return {"label.weight": table, **remap.flat(layers)}


def _prediction(layer: Layer, info: ModelInfo, *, sit: bool) -> Layer:
    """The last layer with channels first; of SiT those that are used, with the sign of ditkit's velocity."""
    patch, channels = info.config.model.patch, info.config.shape[0]
    weight, bias = remap.channels_first(layer, patch, len(layer[1]) // patch**2)
    used = channels * patch**2
    return (-weight[:used], -bias[:used]) if sit else (weight, bias)
