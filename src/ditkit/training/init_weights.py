"""Weights that a run starts from: fresh ones, or those of another model (`train.init_from`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..autoencoders.files import PIXEL, find_files, fingerprint
from ..checkpoint.loading import build_network, read_tensors
from ..checkpoint.tensors import load_into
from ..config import RunConfig
from ..errors import CheckpointError
from ..io.paths import expanded
from ..models.dit import DiT
from ..runs.folder import RunFolder
from ..runs.model_info import LatentStats, ModelInfo, read_model_info
from ..seeding import generator


def fresh_network(config: RunConfig, labels: int, device: torch.device) -> DiT:
    """A network whose weights are a function of the run's seed alone, on any device."""
    with torch.random.fork_rng(devices=[]):
        network = build_network(config, labels)
    network.initialize(generator(config.seed, "weights"))
    return network.to(device)


def first_network(config: RunConfig, labels: Sequence[str], device: torch.device, run: RunFolder | None = None) -> DiT:
    """The network that a run starts from: fresh, or with the weights that `train.init_from` names.

    Rows of its label table are matched by the labels' names, and the null label's is taken; new labels start from
    fresh rows. Raises CheckpointError when the weights are gone, damaged or of another architecture.
    """
    network = fresh_network(config, len(labels), device)
    if config.train.init_from is None:
        return network
    path, info = _source(config.train.init_from, run)
    tensors = read_tensors(path)
    table_LD = network.label.weight.detach().cpu().clone()
    source_LD = tensors.get("label.weight", table_LD)
    if source_LD.shape == (len(info.labels) + 1, table_LD.shape[1]):
        rows = {label: row for row, label in enumerate(info.labels)}
        for row, label in enumerate(labels):
            if label in rows:
                table_LD[row] = source_LD[rows[label]]
        table_LD[-1] = source_LD[-1]
        tensors["label.weight"] = table_LD
    load_into(network, tensors, path)
    return network


def first_latents(
    config: RunConfig, warn: Callable[[str], None] = lambda _text: None, run: RunFolder | None = None
) -> LatentStats | None:
    """The latent statistics of the model that the run starts from, if its autoencoder is the same, or unknown."""
    if config.train.init_from is None or config.autoencoder.name == PIXEL:
        return None
    stats = _source(config.train.init_from, run)[1].latents
    if stats and stats.autoencoder in ("", fingerprint(find_files(config))):
        return stats
    warn("its autoencoder is not that of the model it begins with: the statistics of its latents are measured anew")
    return None


def _source(word: str, run: RunFolder | None) -> tuple[Path, ModelInfo]:
    path = run.first_weights if run and run.first_weights.is_file() else expanded(word)
    if not path.is_file():
        raise CheckpointError(f"the weights to begin with are gone: {path}", "put them back, or start another run")
    return path, read_model_info(path)
