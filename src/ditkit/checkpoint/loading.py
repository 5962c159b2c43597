"""load(): a trained model, ready to sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..autoencoders.contract import Autoencoder, open_autoencoder
from ..autoencoders.files import moved
from ..config import RunConfig
from ..errors import DataError
from ..io import safetensors
from ..io.locks import done_reading
from ..latents.codec import Codec
from ..models.dit import DiT
from ..runs import manifest
from ..runs.folder import runs_dir
from ..runs.lookup import find_weights
from ..runs.model_info import LatentStats, ModelInfo, read_model_info
from .tensors import check_shapes, load_into


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network ready to sample, and what its weights file says about it."""

    info: ModelInfo
    network: DiT
    codec: Codec
    source: Path
    source_sum: str | None = None  # of that file's SHA-256; None: not of a checkpoint, which its run may remove


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
) -> Trained:
    """The network of a run, a checkpoint folder or a weights file, ready to sample.

    Args:
        source: name or path of any of these, hf://user/name, or the model inside the package (mnist); the newest run if
            None.
        ema: the averaged weights, else the raw ones.
        autoencoder: a folder with that of the run, if it has moved, or one of the same latents by name.

    Raises CheckpointError when there is no checkpoint or it is damaged, DataError when the autoencoder is missing or
    another one.
    """
    path = find_weights(str(source) if source is not None else None, runs_dir(), ema=ema)
    return load_weights(path, read_model_info(path), device=device, autoencoder=autoencoder)


def load_weights(
    path: Path, info: ModelInfo, *, device: str | torch.device = "cpu", autoencoder: str | Path | None = None
) -> Trained:
    """As `load`, of a weights file whose description has been read."""
    codec, stated = open_codec(info, device, autoencoder), manifest.stated_sum(path)
    network = load_network(info, path).to(device)
    return Trained(info=info, network=network, codec=codec, source=path, source_sum=stated)


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


def open_codec(info: ModelInfo, device: str | torch.device, folder: str | Path | None = None) -> Codec:
    """Decodes what a model's network draws. Raises DataError if its autoencoder is missing or another one."""
    config = info.config
    if folder is not None:
        config = dataclasses.replace(config, autoencoder=moved(config.autoencoder, folder))
    autoencoder = open_autoencoder(config, device)
    check_same_autoencoder(autoencoder, info.latents)
    return Codec(autoencoder, info.latents)


def check_same_autoencoder(autoencoder: Autoencoder, stats: LatentStats | None) -> None:
    """Raise DataError if the latents were made by other weights; imported models do not say by which."""
    if stats and stats.autoencoder and autoencoder.fingerprint != stats.autoencoder:
        raise DataError(
            "the autoencoder's weights are not those that the network was trained with", "put those files back"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, on the CPU. Raises CheckpointError if it is damaged."""
    tensors = safetensors.parse(manifest.read_weights(path), path)
    done_reading(path.parent)
    return tensors
