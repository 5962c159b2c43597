"""The project that ditkit reimplements (VachanVY's diffusion-transformer): `ckpt.pt`, pixels, epsilon, linear betas.

Its network is ditkit's, except for what is folded into the weights here: three matrices for queries, keys and values,
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
from ..errors import UsageError
from ..runs.model_info import ModelInfo
from . import remap
from .base import ForeignModel, note_on_label_drop
from .choice import Choice
from .projects import ORIGINAL
from .remap import block_layers, channels_first, linear, patch_layer, reordered, stacked
from .stated import given
from .unsupported import without_extras

ORIGIN = "the original diffusion-transformer"
FACES = ("female", "male")  # its classes 0 and 1 of CelebA
MARK = "patch_ops.patch_proj.weight"
_MODULATION = (1, 0, 4, 3, 2, 5)  # ditkit's shift, scale, shift, scale, gate, gate in its scale, shift, gate, scale, …
_FINAL = (1, 0)  # scale, shift
_QKV = ("wq", "wk", "wv")
_LAYERS = {
    "attention.out": "att.w",
    "mlp.first": "pointwise_ffn.layers.0",
    "mlp.second": "pointwise_ffn.layers.3",
}
_NAMES = (  # a pattern of all of its tensors
    r"positional_embeddings|label_embed\.label_embed\.weight|(patch_ops\.patch_proj|time_embed\.mlp\.[02]|"
    r"blocks\.\d+\.(att\.(wq|wk|wv|w)|pointwise_ffn\.layers\.[03]|scale_shift_scale\.1)|"
    r"norm_linear\.(shift_scale\.1|linear))\.(weight|bias)"
)
_SAYS = {  # its argument: section and name of the setting with which a user says it, and how
    "num_timesteps": ("diffusion", "timesteps", "diffusion.timesteps=N-1"),
    "cfg_dropout_rate": ("diffusion", "label_drop", "diffusion.label_drop=N"),
    "num_heads": ("model", "heads", "model.heads=N"),
}
_HEADS = {288: 6, 512: 8}  # by width, of the two models that it trains


def read(
    choice: Choice, about: Mapping[str, Any], path: Path, settings: Mapping[str, Any], project: str | None = None
) -> ForeignModel:
    """The model of a file: the weights chosen, and what it says `about` them; `settings` are what the user says.

    Raises CheckpointError for damage, UsageError for another `project` and where the number of heads has to be asked.
    """
    if project not in (None, ORIGINAL):
        raise UsageError(f"{path} is no network of {project}: it is {ORIGIN}'s", "leave out --project")
    with remap.reading(path, ORIGIN):
        arguments = dict(about.get("model_args") or about.get("train_config") or {})
        states = [remap.state_dict(network.tensors) for network in choice.networks]
        assumed = _assumed(states[0], arguments, settings)
        info = _model_info(states[0], {**assumed, **arguments}, settings, int(about.get("step") or 0), path)
        networks = [without_extras(state, _NAMES, path) for state in states]
        ema, *raw = [_converted(state, info) for state, _ in networks]
        losses = _losses(about.get("losses") or (), info.step)
    notes = [f"assumed: {name}={value}; if not: --set {_SAYS[name][2]}" for name, value in assumed.items()]
    return ForeignModel(
        origin=ORIGIN,
        info=info,
        ema=ema,
        raw=raw[0] if raw else None,
        losses=losses,
        names_are_assumed=info.labels != FACES,
        notes=(*notes, *note_on_label_drop(info), *networks[0][1]),
    )


def _assumed(
    tensors: Mapping[str, Tensor], arguments: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What neither file nor user says: as in its script for MNIST, which drops no label, or in that for faces."""
    (width, channels, *_), rows = tensors[MARK].shape, len(tensors["label_embed.label_embed.weight"])
    is_mnist = (width, channels, rows) == (288, 1, 10)
    usual = {"num_timesteps": 400 if is_mnist else 1000, "cfg_dropout_rate": 0.0 if is_mnist else 0.1}
    usual |= {"num_heads": _HEADS[width]} if width in _HEADS else {}
    return {
        name: value
        for name, value in usual.items()
        if name not in arguments and given(settings, *_SAYS[name][:2]) is None
    }


def _model_info(
    tensors: Mapping[str, Tensor], arguments: Mapping[str, Any], settings: Mapping[str, Any], step: int, path: Path
) -> ModelInfo:
    width, channels, patch, _ = tensors[MARK].shape
    tokens, rows = tensors["positional_embeddings"].shape[1], len(tensors["label_embed.label_embed.weight"])
    heads = given(settings, "model", "heads") or arguments.get("num_heads")
    stated = [arguments.get(side, math.isqrt(tokens) * patch) for side in "HW"]
    typed = str(given(settings, "data", "image_size") or "x".join(map(str, stated))).lower().split("x")
    height, columns = int(typed[0]), int(typed[-1])
    if (height // patch) * (columns // patch) != tokens:
        raise UsageError(
            f"{path} has {tokens} positions, which is no image of {height}x{columns} pixels",
            "say the size with --set data.image_size=96x64",
        )
    typed, classes = given(settings, "diffusion", "label_drop"), arguments.get("num_classes")
    has_null = float(arguments.get("cfg_dropout_rate", 0.1) if typed is None else typed) > 0
    has_null = rows > classes if classes in (rows, rows - 1) else has_null
    labels = _labels(rows - has_null, channels, path)
    typed_timesteps = given(settings, "diffusion", "timesteps")
    timesteps = typed_timesteps + 1 if isinstance(typed_timesteps, int) else int(arguments.get("num_timesteps", 1000))
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
                "depth": remap.depth(tensors),
                "heads": heads or remap.known_heads(width, _HEADS, path),
                "mlp": "gelu",
                "positions": "1d-interleaved",
                "time_activation": "selu",
                "final_activation": "selu",
                "frequency_size": tensors["time_embed.mlp.0.weight"].shape[1],
            },
            # It never trains at its last beta: its t is one more than ditkit's, and below the number of betas.
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


def _labels(classes: int, channels: int, path: Path) -> tuple[str, ...]:
    """Female and male of two classes in colour that are CelebA's: as published, celeba/ckpt.pt."""
    is_celeba = any("celeb" in part.lower() for part in path.parts[-2:])
    return FACES if is_celeba and (classes, channels) == (2, 3) else tuple(map(str, range(classes)))


def _converted(tensors: dict[str, Tensor], info: ModelInfo) -> dict[str, Tensor]:
    """ditkit's tensors; removes all of the others."""
    config = info.config
    patch, channels = config.model.patch, config.data.channels
    remap.check_positions(tensors.pop("positional_embeddings")[0], config)
    weight, bias = linear(tensors, "time_embed.mlp.0")
    layers = {
        "patch_in": patch_layer(tensors, "patch_ops.patch_proj"),
        "time.first": (remap.shift_timestep_features(weight, start=1, sign=1), bias),
        "time.second": linear(tensors, "time_embed.mlp.2"),
    }
    for index in range(config.model.depth):
        block = f"blocks.{index}"
        layers[f"{block}.attention.qkv"] = stacked([linear(tensors, f"{block}.att.{name}") for name in _QKV])
        layers |= {f"{block}.{name}": layer for name, layer in block_layers(tensors, block, _LAYERS).items()}
        layers[f"{block}.modulation"] = reordered(linear(tensors, f"{block}.scale_shift_scale.1"), _MODULATION)
    layers["final.modulation"] = reordered(linear(tensors, "norm_linear.shift_scale.1"), _FINAL)
    layers["final.linear"] = channels_first(linear(tensors, "norm_linear.linear"), patch, channels)
    table = tensors.pop("label_embed.label_embed.weight")
    if len(table) == len(info.labels):  # it never dropped a label: without one, only the timestep counts
        table = torch.cat([table, torch.zeros(1, table.shape[1])])
    return {"label.weight": table, **remap.flat(layers)}


def _losses(losses: Any, step: int) -> tuple[tuple[int, float], ...]:
    """The loss after each step; a resumed training kept only those since."""
    first = max(1, step - len(losses) + 1)
    return tuple((first + index, float(loss)) for index, loss in enumerate(losses))
