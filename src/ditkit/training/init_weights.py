"""Weights that a run begins with: fresh ones, or those of another model (`train.init_from`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..checkpoint.loading import build_network, read_tensors
from ..checkpoint.tensors import load_into
from ..config import RunConfig
from ..errors import CheckpointError
from ..io.paths import expanded
from ..models.dit import DiT
from ..runs.model_info import LatentStats, ModelInfo, read_model_info
from ..seeding import generator


def fresh_network(config: RunConfig, labels: int, device: torch.device) -> DiT:
    """A network whose weights are a function of the run's seed alone, on any device."""
    with torch.random.fork_rng(devices=[]):
        network = build_network(config, labels)
    network.initialize(generator(config.seed, "weights"))
    return network.to(device)


def first_network(config: RunConfig, labels: Sequence[str], device: torch.device) -> DiT:
    """The network that a run starts from: fresh, or with the weights that `train.init_from` names.

    Of those, labels that both know are matched by their names, and the null label is kept; labels that are new begin
    afresh. Raises CheckpointError when the weights are gone, damaged or of another architecture.
    """
    network = fresh_network(config, len(labels), device)
    if config.train.init_from is None:
        return network
    path, info = _source(config.train.init_from)
    tensors = read_tensors(path)
    table_LD = network.label.weight.detach().cpu().clone()
    known_LD = tensors.get("label.weight", table_LD)
    if known_LD.shape == (len(info.labels) + 1, table_LD.shape[1]):
        rows = {label: row for row, label in enumerate(info.labels)}
        for row, label in enumerate(labels):
            if label in rows:
                table_LD[row] = known_LD[rows[label]]
        table_LD[-1] = known_LD[-1]
        tensors["label.weight"] = table_LD
    load_into(network, tensors, path)
    return network


def first_latents(config: RunConfig) -> LatentStats | None:
    """The statistics of the latents that the weights to begin with know, if the autoencoder is the same."""
    if config.train.init_from is None:
        return None
    info = _source(config.train.init_from)[1]
    theirs, ours = info.config.autoencoder, config.autoencoder
    return info.latents if (theirs.name, theirs.source) == (ours.name, ours.source) else None


def _source(word: str) -> tuple[Path, ModelInfo]:
    path = expanded(word)
    if not path.is_file():
        raise CheckpointError(f"the weights to begin with are gone: {path}", "put them back, or start another run")
    return path, read_model_info(path)
