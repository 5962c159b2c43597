"""Which project a file or folder of weights is from, by what is in it; and its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import recipes
from ..checkpoint.loading import build_network, read_tensors
from ..checkpoint.tensors import check_tensors
from ..config import to_dict
from ..errors import CheckpointError, UsageError
from ..runs.lookup import PICKLES
from ..runs.model_info import has_model_info, read_model_info
from . import diffusers, diffusers_config, meta, original, remap, torch_file
from .base import ForeignModel, short_names
from .file_kinds import is_safetensors
from .state_dicts import choose, find_networks, metadata
from .unsupported import KNOWN, describe

SUFFIXES = (".safetensors", *PICKLES)


def read_foreign(path: Path, settings: Mapping[str, Any] = {}, project: str | None = None) -> ForeignModel:
    """The model of a file or a folder, checked; `settings` ({"sample": {"steps": 50}}) replace its own.

    `project` is one of projects.PROJECTS, for a file that does not say whose training it is from.
    Raises CheckpointError for what is damaged, refused or in no known format, UsageError for what is ambiguous.
    """
    model = (_read_folder if path.is_dir() else _read_file)(path, settings, project)
    config = recipes.build(to_dict(model.info.config), settings)
    model = dataclasses.replace(model, info=dataclasses.replace(model.info, config=config))
    for tensors in (model.ema, model.raw):
        if tensors is not None:
            _check_shapes(model, tensors, path)
    return model


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


def _read_folder(folder: Path, settings: Mapping[str, Any], project: str | None) -> ForeignModel:
    if (folder / "model_index.json").is_file():
        if diffusers_config.is_pipeline(folder):
            model = diffusers.read(folder)
            labels = short_names(model.info.labels)
            return dataclasses.replace(model, info=dataclasses.replace(model.info, labels=labels))
        raise CheckpointError(f"{folder} is a pipeline of diffusers, but no DiTPipeline", KNOWN)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(files) != 1:
        names = ", ".join(path.name for path in files[:5]) or "no file of weights"
        raise UsageError(f"{folder} holds {names}: which is it?", "name one file, or the folder of a DiTPipeline")
    return _read_file(files[0], settings, project)


def _read_file(path: Path, settings: Mapping[str, Any], project: str | None) -> ForeignModel:
    if is_safetensors(path) and has_model_info(path):
        return _read_own(path)
    tree = read_tensors(path) if is_safetensors(path) else torch_file.read(path)
    for reader in (original, meta):
        if networks := find_networks(tree, reader.MARK):
            choice = choose(networks)
            choice.check_size(path)
            model = reader.read(choice, metadata(tree), path, settings, project)
            return dataclasses.replace(model, notes=(*([choice.note] if choice.note else []), *model.notes))
    raise CheckpointError(f"{path} is {describe(tree)}", KNOWN)


def _read_own(path: Path) -> ForeignModel:
    """A weights file of ditkit."""
    info, tensors = read_model_info(path), read_tensors(path)
    with remap.reading(path, "a weights file of ditkit"):
        return ForeignModel(origin="a model of ditkit", info=info, ema=remap.state_dict(tensors))
