"""load(): a trained model, ready to sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import RunConfig
from ..io import safetensors
from ..io.locks import done_reading
from ..kernels.choice import EAGER, Compute, choose_to_draw
from ..latents.codec import Codec, open_codec
from ..models.dit import DiT
from ..runs import manifest
from ..runs.folder import runs_dir
from ..runs.lookup import find_weights
from ..runs.model_info import ModelInfo, read_model_info
from .tensors import check_shapes, load_into


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network ready to sample, and what its weights file says about it."""

    info: ModelInfo
    network: DiT
    codec: Codec
    source: Path
    source_sum: str | None = None  # of that file's SHA-256; None: not of a checkpoint, which its run may remove
    compute: Compute = EAGER


def build_network(config: RunConfig, labels: int) -> DiT:
    """The network of a config, with fresh weights drawn from torch's global generator."""
    channels, *size = config.shape
    return DiT(config.model, channels=channels, size=(size[0], size[1]), classes=labels)


def load(
    source: str | Path | None = None,
    *,
    ema: bool = True,
    device: str | torch.device = "cpu",
    autoencoder: str | Path | None = None,
    dtype: str = "auto",
    kernels: str = "auto",
) -> Trained:
    """The network of a run, a checkpoint folder or a weights file, ready to sample.

    Args:
        source: name or path of any of these, hf://user/name, or the model inside the package (mnist); the newest run if
            None.
        ema: the averaged weights, else the raw ones.
        autoencoder: a folder with that of the run, if it has moved, or one of the same latents by name.
        dtype: of matrix products, float32, bfloat16, or auto for what is faster on a CPU and float32 elsewhere.
        kernels: auto, on or off: whether ditkit's kernels run the network's blocks on a CPU (see `kernels.choice`).

    Raises CheckpointError when there is no checkpoint or it is damaged, DataError when the autoencoder is missing or
    another one, UsageError or MachineError for kernels that cannot be used.
    """
    path = find_weights(str(source) if source is not None else None, runs_dir(), ema=ema)
    return load_weights(
        path, read_model_info(path), device=device, autoencoder=autoencoder, dtype=dtype, kernels=kernels
    )


def load_weights(
    path: Path,
    info: ModelInfo,
    *,
    device: str | torch.device = "cpu",
    autoencoder: str | Path | None = None,
    dtype: str = "auto",
    kernels: str = "auto",
) -> Trained:
    """As `load`, of a weights file whose description has been read."""
    codec, stated = open_codec(info, device, autoencoder), manifest.stated_sum(path)
    network, compute = load_network(info, path).to(device), choose_to_draw(info.config, device, dtype, kernels)
    compute.equip(network)
    network.autocast = compute.autocast
    return Trained(info=info, network=network, codec=codec, source=path, source_sum=stated, compute=compute)


def load_network(info: ModelInfo, path: Path) -> DiT:
    """The network of a weights file alone, float32, not to be trained. Raises CheckpointError if it is damaged."""
    tensors = read_tensors(path)
    check_fits(info, tensors, path)
    network = build_network(info.config, len(info.labels))
    load_into(network, tensors, path)
    return network.eval().requires_grad_(False)


def check_fits(info: ModelInfo, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError unless tensors are those of the network that the model's settings describe."""
    with torch.device("meta"):  # settings from elsewhere may describe more memory than there is
        check_shapes(build_network(info.config, len(info.labels)), tensors, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, on the CPU. Raises CheckpointError if it is damaged."""
    tensors = safetensors.parse(manifest.read_weights(path), path)
    done_reading(path.parent)
    return tensors
