"""Which project a file or folder of weights is from, by what is in it; and its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import recipes
from ..checkpoint.loading import build_network, read_tensors
from ..checkpoint.tensors import check_tensors
from ..config import to_dict
from ..errors import CheckpointError, UsageError
from ..runs.model_info import has_model_info, read_model_info
from . import diffusers, diffusers_config, meta, original, remap
from .base import ForeignModel, class_names, short_names
from .choice import average_left_out, choose
from .file_kinds import is_safetensors
from .folders import find_model
from .projects import ORIGINS
from .state_dicts import find_networks, metadata, stored_betas
from .unsupported import KNOWN, describe
from .weights import read_files, read_tree, stated_beside


def read_foreign(
    path: Path, settings: Mapping[str, Any] = {}, project: str | None = None, state_dict: str | None = None
) -> ForeignModel:
    """The model of a file or a folder, checked; `settings` ({"sample": {"steps": 50}}) replace its own.

    `project` is one of projects.PROJECTS, for a file that does not say whose training it is from; `state_dict` is where
    in the file the weights are that shall be taken of several ("ema_0.999").
    Raises CheckpointError for what is damaged, refused or in no known format, UsageError for what is ambiguous.
    """
    place = find_model(path)
    if place.pipeline:
        model = _read_pipeline(place.pipeline)
    else:
        model = _read_files(place.files, settings, project, state_dict)
    model = dataclasses.replace(model, notes=(*([place.note] if place.note else []), *model.notes))
    if project and model.origin not in (*ORIGINS.values(), original.ORIGIN):
        raise UsageError(f"--project is for weights that do not say whose they are; {path} does", "leave it out")
    model = _with_settings(model, settings, path)
    for tensors in (model.ema, model.raw):
        if tensors is not None:
            _check_shapes(model, tensors, path)
    return model


def _with_settings(model: ForeignModel, settings: Mapping[str, Any], path: Path) -> ForeignModel:
    """The model with what the user says instead of its own; another autoencoder need not be the one of a pipeline."""
    info = model.info
    config = recipes.build(to_dict(info.config), settings)
    old, new, latents = info.config.autoencoder, config.autoencoder, info.latents
    if old != new:
        if (old.channels, old.shrink) != (new.channels, new.shrink):
            raise UsageError(f"{path} models other latents than those of that autoencoder", "leave out --autoencoder")
        latents = dataclasses.replace(latents, autoencoder="") if latents else None
    return dataclasses.replace(model, info=dataclasses.replace(info, config=config, latents=latents))


def _check_shapes(model: ForeignModel, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError for another network's tensors, and for numbers that are not finite."""
    with torch.device("meta"):  # settings from elsewhere may describe more memory than there is
        network = build_network(model.info.config, len(model.info.labels))
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for name, shape in shapes.items():
        if name in tensors and tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{path} is another network than {model.origin}: what becomes {name} has the shape "
                f"{tuple(tensors[name].shape)} instead of {shape}",
                KNOWN,
            )
    check_tensors(shapes, tensors, path)


def _read_pipeline(folder: Path) -> ForeignModel:
    if not diffusers_config.is_pipeline(folder):
        raise CheckpointError(f"{folder} is a pipeline of diffusers, but no DiTPipeline", KNOWN)
    model = diffusers.read(folder)
    labels = model.info.labels
    labels = class_names(len(labels)) if model.names_are_assumed else short_names(labels)
    return dataclasses.replace(model, info=dataclasses.replace(model.info, labels=labels))


def _read_files(
    paths: Sequence[Path], settings: Mapping[str, Any], project: str | None, state_dict: str | None
) -> ForeignModel:
    path = paths[0]
    if is_safetensors(path) and has_model_info(path):
        return _read_own(path)
    tree = read_files(paths) if len(paths) > 1 else read_tree(path)
    for reader in (original, meta):
        if networks := find_networks(tree, reader.MARK):
            choice = choose(networks, state_dict)
            choice.check(path)
            beside, note = stated_beside(path)
            about = {**metadata(tree), **beside, "betas": stored_betas(tree)}
            model = reader.read(choice, about, path, settings, project)
            notes = filter(None, (choice.note, average_left_out(tree, networks), note))
            return dataclasses.replace(model, notes=(*notes, *model.notes))
    raise CheckpointError(f"{path} is {describe(tree)}", KNOWN)


def _read_own(path: Path) -> ForeignModel:
    """A weights file of ditkit."""
    info, tensors = read_model_info(path), read_tensors(path)
    with remap.reading(path, "a weights file of ditkit"):
        return ForeignModel(origin="a model of ditkit", info=info, ema=remap.state_dict(tensors))
