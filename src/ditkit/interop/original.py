"""The project that ditkit does again (VachanVY's diffusion-transformer): `ckpt.pt`, pixels, epsilon, linear betas.

Its network is ditkit's, but for what is folded into the weights here: three matrices for queries, keys and values,
scales before shifts before gates, pixels of a patch before channels, and timesteps that count one more, because its
abar_0 is 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import recipes
from ..runs.model_info import ModelInfo
from . import remap
from .base import ForeignModel
from .remap import channels_first, linear, reordered

ORIGIN = "the original diffusion-transformer"
FACES = ("female", "male")  # its classes 0 and 1 of CelebA
_MARK = "patch_ops.patch_proj.weight"
_BLOCK = (1, 0, 4, 3, 2, 5)  # ditkit's shift, scale, shift, scale, gate, gate in its scale, shift, gate, scale, …
_FINAL = (1, 0)
_HEADS = {288: 6, 512: 8}  # by width, of the two models that it trains


def fits(tree: Any) -> bool:
    """Whether it is one of its checkpoints, or one of the two state dicts in it."""
    if not isinstance(tree, Mapping):
        return False
    return any(_MARK in str(name) for one in (tree, *_states(tree)) for name in one)


def _states(tree: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The averaged and the raw weights, as far as they are there."""
    found = (tree.get("ema_state"), tree.get("model_state"))
    return [one for one in found if isinstance(one, Mapping)]


def read(tree: Mapping[str, Any], path: Path, heads: int | None = None) -> ForeignModel:
    """The model of a checkpoint. Raises CheckpointError for what does not fit together."""
    with remap.reading(path, ORIGIN):
        arguments = dict(tree.get("model_args") or tree.get("train_config") or {})
        states = _states(tree) or [tree]
        first = remap.state_dict(states[0])
        info = _card(first, arguments, heads, int(tree.get("step", 0)), path)
        raw = remap.state_dict(states[1]) if len(states) == 2 else None
        return ForeignModel(
            origin=ORIGIN,
            info=info,
            ema=_converted(first, info),
            raw=_converted(raw, info) if raw else None,
            losses=_losses(tree.get("losses") or (), info.step),
        )


def _card(
    tensors: Mapping[str, Tensor], arguments: Mapping[str, Any], heads: int | None, step: int, path: Path
) -> ModelInfo:
    width, channels, patch, _ = tensors[_MARK].shape
    tokens, rows = tensors["positional_embeddings"].shape[1], len(tensors["label_embed.label_embed.weight"])
    height, columns = (int(arguments.get(side, math.isqrt(tokens) * patch)) for side in "HW")
    if (height // patch) * (columns // patch) != tokens:
        raise ValueError(f"{tokens} positions for an image of {height}x{columns}")
    has_null = float(arguments.get("cfg_dropout_rate", 0.1)) > 0
    labels = _labels(rows - has_null, channels)
    timesteps = int(arguments.get("num_timesteps", 1000))
    start, end = (float(value) for value in arguments.get("var_range", (1e-4, 2e-2)))
    config = recipes.build(
        {
            "data": {
                "name": "celeba" if labels == FACES else "mnist" if channels == 1 else "folder",
                "image_size": (height, columns),
                "channels": channels,
            },
            "model": {
                "patch": patch,
                "width": width,
                "depth": len([name for name in tensors if name.endswith(".att.wq.weight")]),
                "heads": heads or arguments.get("num_heads") or remap.known_heads(width, _HEADS, path),
                "mlp": "gelu",
                "positions": "1d-interleaved",
                "time_activation": "selu",
                "final_activation": "selu",
                "frequency_size": tensors["time_embed.mlp.0.weight"].shape[1],
            },
            # It never trains at the last of its betas: its t is one more than ditkit's, and below their number.
            "diffusion": {
                "process": "diffusion",
                "objective": "epsilon",
                "timesteps": timesteps - 1,
                "beta_start": start,
                "beta_end": start + (end - start) * (timesteps - 2) / (timesteps - 1),
                "stratified": False,
                "label_drop": 0.1 if has_null else 0.0,
            },
            "sample": {"sampler": "dpmpp", "steps": 50, "guidance": 2.0 if has_null else 1.0},
            "train": {"steps": max(1, step)},
        }
    )
    return ModelInfo(config=config, labels=labels, step=step)


def _labels(classes: int, channels: int) -> tuple[str, ...]:
    return FACES if (classes, channels) == (2, 3) else tuple(str(number) for number in range(classes))


def _converted(tensors: dict[str, Tensor], info: ModelInfo) -> dict[str, Tensor]:
    """ditkit's tensors; takes all of the others out."""
    config = info.config
    patch, channels = config.model.patch, config.data.channels
    remap.check_positions(tensors.pop("positional_embeddings")[0], config)
    weight, bias = linear(tensors, "patch_ops.patch_proj")
    found = {"patch_in": (weight.flatten(1), bias)}
    weight, bias = linear(tensors, "time_embed.mlp.0")
    found["time.first"] = remap.shift_timestep_features(weight, start=1, sign=1), bias
    found["time.second"] = linear(tensors, "time_embed.mlp.2")
    for index in range(config.model.depth):
        block = f"blocks.{index}"
        separate = [linear(tensors, f"{block}.att.{name}") for name in ("wq", "wk", "wv")]
        weight, bias = (torch.cat(parts) for parts in zip(*separate, strict=True))
        found[f"{block}.attention.qkv"] = weight, bias
        found[f"{block}.attention.out"] = linear(tensors, f"{block}.att.w")
        found[f"{block}.mlp.first"] = linear(tensors, f"{block}.pointwise_ffn.layers.0")
        found[f"{block}.mlp.second"] = linear(tensors, f"{block}.pointwise_ffn.layers.3")
        found[f"{block}.modulation"] = reordered(linear(tensors, f"{block}.scale_shift_scale.1"), _BLOCK)
    found["final.modulation"] = reordered(linear(tensors, "norm_linear.shift_scale.1"), _FINAL)
    found["final.linear"] = channels_first(linear(tensors, "norm_linear.linear"), patch, channels)
    table = tensors.pop("label_embed.label_embed.weight")
    remap.nothing_left(tensors)
    if len(table) == len(info.labels):  # it never dropped a label: without one, only the timestep counts
        table = torch.cat([table, torch.zeros(1, table.shape[1])])
    return {"label.weight": table, **remap.flat(found)}


def _losses(losses: Any, step: int) -> tuple[tuple[int, float], ...]:
    """The loss after each step; a resumed training kept only those since."""
    first = max(1, step - len(losses) + 1)
    return tuple((first + index, float(loss)) for index, loss in enumerate(losses))
