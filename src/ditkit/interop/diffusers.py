"""DiTPipeline folders of diffusers: read as a model of ditkit, and written so that diffusers loads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import recipes
from ..checkpoint.loading import Trained
from ..errors import CheckpointError
from ..io import safetensors
from ..io.atomic import Content, write_folder
from ..io.weight_files import component_files, variant_of
from ..runs.model_info import ModelInfo
from . import diffusers_vae
from .base import ForeignModel, cast
from .diffusers_config import (
    INDEX,
    PIPELINE,
    TRANSFORMER,
    as_json,
    check_expressible,
    read_json,
    read_transformer_config,
    transformer_config,
)
from .diffusers_scheduler import read_scheduler_config, scheduler_config
from .diffusers_transformer import label_table, labels_in_use, to_diffusers, to_ditkit
from .weights import read_files

_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_SCHEDULER = "scheduler_config.json"
_METADATA = {"format": "pt"}  # diffusers asks for it


def read(folder: Path) -> ForeignModel:
    """The model of a DiTPipeline's folder; its autoencoder stays, and is used, where it is.

    Raises CheckpointError, or DataError about the autoencoder, for what is damaged or not supported.
    """
    transformer = folder / "transformer"
    tree = read_json(folder / INDEX)
    if tree.get("_class_name") != PIPELINE:
        raise CheckpointError(f"{folder} is a {tree.get('_class_name')} of diffusers", f"ditkit reads a {PIPELINE}")
    if not transformer.is_dir():
        raise CheckpointError(f"{folder} has no folder transformer", "get the whole folder of the pipeline")
    files = component_files((path.name for path in transformer.iterdir()), transformer)
    tensors = read_files([transformer / name for name in files])
    try:
        info, note = _model_info(folder, tree, tensors)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"the settings in {folder} are damaged: {error}", "get the folder again") from None
    model = info.config.model
    outputs = info.config.shape[0] * (2 if model.learned_sigma else 1)
    ema = to_ditkit(tensors, model, len(info.labels), outputs=outputs, path=transformer / _WEIGHTS)
    variant = variant_of(files[0])
    taken = f"its weights are those of the variant {variant}, for it has no others" if variant else ""
    assumed, notes = not tree.get("id2label"), tuple(filter(None, (note, taken)))
    return ForeignModel(origin=f"diffusers {PIPELINE}", info=info, ema=ema, names_are_assumed=assumed, notes=notes)


def _model_info(folder: Path, index: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[ModelInfo, str]:
    """The model of a pipeline, and a line on what its own sampling does otherwise."""
    transformer, scheduler = folder / "transformer" / _CONFIG, folder / "scheduler" / _SCHEDULER
    model, channels, side = read_transformer_config(read_json(transformer), transformer)
    data, autoencoder, latents = diffusers_vae.read(folder / "vae", channels, side)
    named = index.get("scheduler")
    settings = {"_class_name": named[-1] if isinstance(named, list) and named else None, **read_json(scheduler)}
    schedule = read_scheduler_config(settings, scheduler, learned_sigma=model["learned_sigma"], pixels=latents is None)
    # SiT is a flow whose second half of output channels is never used: it is read without them.
    model["learned_sigma"] = schedule.diffusion["objective"] == "learned-sigma"
    config = recipes.build(
        {
            "data": {"name": "folder", **data},
            "model": model,
            "diffusion": schedule.diffusion,
            "autoencoder": autoencoder,
            "sample": schedule.sample,
        }
    )
    table = label_table(tensors, folder / "transformer" / _WEIGHTS)
    labels = _labels(index.get("id2label"), table, folder)
    return ModelInfo(config=config, labels=labels, step=0, latents=latents), schedule.note


def _labels(names: Any, table: Tensor, folder: Path) -> tuple[str, ...]:
    """A name for each label in use: the first of its names, with its number where several share the name."""
    if names is not None and not isinstance(names, Mapping):
        raise CheckpointError(f"{folder / INDEX}: id2label is not a table of names", "mend it")
    named = {int(number): str(name).partition(",")[0].strip() for number, name in (names or {}).items()}
    count = labels_in_use(table, min(max(named, default=-1) + 1, len(table) - 1))
    labels = [named.get(number) or str(number) for number in range(count)]
    counts = Counter(labels)
    return tuple(name if counts[name] == 1 else f"{name} {number}" for number, name in enumerate(labels))


def write(trained: Trained, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """A folder that DiTPipeline.from_pretrained loads, whole or not at all; it replaces an older one.

    `dtype` is that of the transformer. Raises UsageError naming all settings that DiTPipeline cannot express,
    MachineError for the disk.
    """
    info = trained.info
    check_expressible(info)
    tensors = to_diffusers(trained.network.state_dict(), info.config.model)
    scheduler, schedule = scheduler_config(info)
    vae, vae_config, vae_tensors = diffusers_vae.exported(info, trained.codec)
    index = {
        # diffusers takes commas for several names of one label
        "id2label": {str(number): label.replace(",", ";") for number, label in enumerate(info.labels)},
        "scheduler": ["diffusers", scheduler],
        "transformer": ["diffusers", TRANSFORMER],
        "vae": ["diffusers", vae],
    }
    files: dict[str, Content] = {
        f"scheduler/{_SCHEDULER}": as_json(scheduler, schedule),
        f"transformer/{_CONFIG}": as_json(TRANSFORMER, transformer_config(info)),
        f"transformer/{_WEIGHTS}": safetensors.pieces(cast(tensors, dtype), _METADATA),
        f"vae/{_CONFIG}": as_json(vae, vae_config),
        f"vae/{_WEIGHTS}": safetensors.pieces(vae_tensors, _METADATA),
        INDEX: as_json(PIPELINE, index),
    }
    write_folder(folder, files)
