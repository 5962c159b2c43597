"""Which project a file or folder of weights comes from, by what is in it; and its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import recipes
from ..checkpoint.loading import check_fits
from ..config import to_dict
from ..errors import CheckpointError, UsageError
from ..io import safetensors
from ..runs import manifest
from ..runs.lookup import PICKLES
from ..runs.model_info import has_model_info, read_model_info
from . import diffusers, diffusers_config, meta, original, remap
from .base import ForeignModel, short_names
from .unpickle import read_pickle

SUFFIXES = (".safetensors", *PICKLES)
KNOWN = (
    "ditkit reads ckpt.pt of the original project, Meta's DiT and SiT, folders of diffusers' DiTPipeline, and its own "
    ".safetensors"
)
_STRANGERS = {  # what a tensor is called: what it is
    "model.diffusion_model.": "a U-Net of Stable Diffusion's kind",
    "init_conv.": "a U-Net of lucidrains' denoising-diffusion-pytorch",
    "downs.0.": "a U-Net of lucidrains' denoising-diffusion-pytorch",
    "inner_model.": "a model of k-diffusion, which is a U-Net or another transformer",
    "mapping.": "a model of k-diffusion, which is a U-Net or another transformer",
    "feat_rope": "a LightningDiT, which has other blocks",
    "transformer_blocks.": "a transformer of diffusers: give the folder of its whole pipeline, with model_index.json",
    "down_blocks.": "a U-Net or an autoencoder of diffusers",
}
_INSIDE = ("ema", "model_ema", "ema_model", "model", "state_dict", "module")  # where projects put their state dicts


def read_foreign(path: Path, settings: Mapping[str, Any] = {}) -> ForeignModel:
    """The model of a file or a folder, checked, with `settings` ({"sample": {"steps": 50}}) on top of its own.

    Raises CheckpointError for what is damaged, refused or none of the known formats, UsageError for what is missing.
    """
    found = _of_folder(path, settings) if path.is_dir() else _of_file(path, settings)
    config = recipes.build(to_dict(found.info.config), settings)
    found = dataclasses.replace(found, info=dataclasses.replace(found.info, config=config))
    for tensors in (found.ema, found.raw):
        if tensors is not None:
            check_fits(found.info, tensors, path)
    return found


def _of_folder(folder: Path, settings: Mapping[str, Any]) -> ForeignModel:
    if (folder / "model_index.json").is_file():
        if diffusers_config.is_pipeline(folder):
            found = diffusers.read(folder)
            labels = short_names(found.info.labels)
            return dataclasses.replace(found, info=dataclasses.replace(found.info, labels=labels))
        raise CheckpointError(f"{folder} is a pipeline of diffusers, but no DiTPipeline", KNOWN)
    files = sorted(one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES)
    if len(files) != 1:
        names = ", ".join(one.name for one in files[:5]) or "no file of weights"
        raise UsageError(f"{folder} holds {names}: which is it?", "name one file, or the folder of a DiTPipeline")
    return _of_file(files[0], settings)


def _of_file(path: Path, settings: Mapping[str, Any]) -> ForeignModel:
    model = settings.get("model")
    heads = model.get("heads") if isinstance(model, Mapping) else None
    if path.suffix.lower() != ".safetensors":
        tree = read_pickle(path)
    elif has_model_info(path):
        return _ours(path)
    else:
        tree = safetensors.parse(manifest.read_weights(path), path)
    for project in (original, meta):
        if project.fits(tree):
            return project.read(tree, path, heads)
    raise CheckpointError(f"{path} is {_stranger(tree)}", KNOWN)


def _ours(path: Path) -> ForeignModel:
    """A weights file of ditkit's own, put under a name."""
    info = read_model_info(path)
    tensors = safetensors.parse(manifest.read_weights(path), path)
    with remap.reading(path, "a weights file of ditkit"):
        return ForeignModel(origin="a model of ditkit", info=info, ema=remap.state_dict(tensors))


def _stranger(tree: Any) -> str:
    """What a file is that ditkit does not read, as far as the names in it tell."""
    inside = [tree, *(tree.get(name) for name in _INSIDE)] if isinstance(tree, Mapping) else []
    names = [str(name) for one in inside if isinstance(one, Mapping) for name in one]
    for mark, kind in _STRANGERS.items():
        if any(_named(name, mark) for name in names):
            return kind
    return "no model that ditkit knows"


def _named(name: str, mark: str) -> bool:
    return name.startswith(mark) or f".{mark}" in f".{name}"
