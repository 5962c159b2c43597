"""Which project a file or folder of weights is from, by what is in it; and its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import recipes
from ..checkpoint.loading import check_fits, read_tensors
from ..config import to_dict
from ..errors import CheckpointError, UsageError
from ..runs.lookup import PICKLES
from ..runs.model_info import has_model_info, read_model_info
from . import diffusers, diffusers_config, meta, original, remap
from .base import ForeignModel, short_names
from .state_dicts import choose, find_networks, metadata
from .unpickle import read_pickle

SUFFIXES = (".safetensors", *PICKLES)
KNOWN = (
    "ditkit reads ckpt.pt of the original project, Meta's DiT and SiT, folders of diffusers' DiTPipeline, and its own "
    ".safetensors"
)
_UNSUPPORTED = {  # prefix of a tensor's name: what the model is
    "model.diffusion_model.": "a U-Net of Stable Diffusion's kind",
    "init_conv.": "a U-Net of lucidrains' denoising-diffusion-pytorch",
    "downs.0.": "a U-Net of lucidrains' denoising-diffusion-pytorch",
    "inner_model.": "a model of k-diffusion, which is a U-Net or another transformer",
    "mapping.": "a model of k-diffusion, which is a U-Net or another transformer",
    "feat_rope": "a LightningDiT, which has other blocks",
    "transformer_blocks.": "a transformer of diffusers: give the folder of its whole pipeline, with model_index.json",
    "down_blocks.": "a U-Net or an autoencoder of diffusers",
}
_STATES = ("ema", "model_ema", "ema_model", "model", "state_dict", "module")  # where projects put their state dicts


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
            check_fits(model.info, tensors, path)
    return model


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
    if path.suffix.lower() != ".safetensors":
        tree = read_pickle(path)
    elif has_model_info(path):
        return _read_own(path)
    else:
        tree = read_tensors(path)
    for reader in (original, meta):
        if networks := find_networks(tree, reader.MARK):
            choice = choose(networks)
            model = reader.read(choice, metadata(tree), path, settings, project)
            return dataclasses.replace(model, notes=(*([choice.note] if choice.note else []), *model.notes))
    raise CheckpointError(f"{path} is {_describe(tree)}", KNOWN)


def _read_own(path: Path) -> ForeignModel:
    """A weights file of ditkit."""
    info, tensors = read_model_info(path), read_tensors(path)
    with remap.reading(path, "a weights file of ditkit"):
        return ForeignModel(origin="a model of ditkit", info=info, ema=remap.state_dict(tensors))


def _describe(tree: Any) -> str:
    """What a model is that ditkit does not read, as far as the names of its tensors show."""
    states = [tree, *(tree.get(name) for name in _STATES)] if isinstance(tree, Mapping) else []
    names = [str(name) for state in states if isinstance(state, Mapping) for name in state]
    for mark, kind in _UNSUPPORTED.items():
        if any(_named(name, mark) for name in names):
            return kind
    return "no model that ditkit knows"


def _named(name: str, mark: str) -> bool:
    return name.startswith(mark) or f".{mark}" in f".{name}"
