"""ditkit's weights files as pytrees and back: `blocks.0.mlp.first.weight` is weights["blocks"]["0"]["mlp"] …"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch import Tensor

from ..checkpoint.loading import build_network, read_tensors
from ..checkpoint.tensors import check_shapes
from ..config import RunConfig
from ..errors import MachineError, UsageError
from ..io import atomic, safetensors
from ..runs.folder import runs_dir
from ..runs.lookup import find_weights
from ..runs.model_info import METADATA_KEY, ModelInfo, read_model_info
from ..training.init_weights import first_network
from .dit import DiT
from .layers import Weights


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network ready to sample, and what its weights file says of it."""

    info: ModelInfo
    network: DiT
    weights: Weights  # float32
    source: Path


def load(source: str | Path | None = None, *, ema: bool = True, device: str = "auto") -> Trained:
    """The network of a run, a checkpoint folder or a weights file.

    Args:
        source: run name, folder or file; the newest run if None.
        ema: the averaged weights, else the raw ones.
        device: `auto`, which is JAX's first, `cpu`, `cuda`, `cuda:1` ….

    Raises:
        CheckpointError: when there are no weights, or they are damaged.
        UsageError: for a device that JAX does not have.
    """
    jax_device = _find_device(device)
    path = find_weights(str(source) if source is not None else None, runs_dir(), ema=ema)
    info, tensors = read_model_info(path), read_tensors(path)
    with torch.device("meta"):  # names and shapes as torch's network has them, without its memory
        check_shapes(build_network(info.config, len(info.labels)), tensors, path)
    weights = jax.device_put(to_tree(tensors), jax_device)
    return Trained(info=info, network=shape_of(info.config, len(info.labels)), weights=weights, source=path)


def _find_device(word: str) -> Any:  # a jax.Device, or None
    if word == "auto":
        return None
    platform, _, index = word.partition(":")
    try:
        return jax.devices(platform)[int(index or 0)]
    except (RuntimeError, IndexError):
        raise UsageError(f"JAX finds no device {word} on this machine", "use --device auto or cpu") from None


def initialize(config: RunConfig, labels: Sequence[str]) -> tuple[DiT, Weights]:
    """A network to train: its shape, and the weights that `ditkit train` starts from with these settings and seed.

    `labels` are the names of the classes. Raises CheckpointError when the weights of `train.init_from` are missing or
    do not fit.
    """
    network = first_network(config, labels, torch.device("cpu"))
    return shape_of(config, len(labels)), to_tree(network.state_dict())


def save(path: str | Path, weights: Weights, info: ModelInfo) -> Path:
    """Write an ordinary weights file, which torch's `ditkit sample --model FILE` reads too. Returns its path.

    An older file is replaced. Raises MachineError when it cannot be written.
    """
    path = Path(path)
    flat = jax.tree_util.tree_flatten_with_path(weights)[0]
    tensors = {".".join(str(key.key) for key in keys): torch.tensor(jax.device_get(value)) for keys, value in flat}
    try:
        atomic.write_atomically(path, safetensors.pieces(tensors, {METADATA_KEY: info.to_json()}))
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror or error}", "choose another place") from None
    return path


def shape_of(config: RunConfig, classes: int) -> DiT:
    """The network of a config, without weights."""
    channels, height, width = config.shape
    return DiT(config=config.model, channels=channels, size=(height, width), classes=classes)


def to_tree(tensors: Mapping[str, Tensor]) -> Weights:
    """torch's tensors, by their dotted names, as nested dicts of float32 arrays."""
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *parents, last = name.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = jnp.asarray(tensor.float().numpy())
    return tree
