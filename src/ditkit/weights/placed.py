"""A model from elsewhere as a folder that looks like a run: everything but going on training takes it by its name."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import durable, manifest, recipes, tensor_files
from ..card import KEY, Card
from ..checkpoint import check_space
from ..errors import MachineError
from ..metrics import numbers_line
from ..run_folder import RunFolder
from .contract import Foreign

_TEMPORARY = ".tmp-placed-"


def place(
    folder: RunFolder,
    *,
    card: Card,
    files: Mapping[str, Mapping[str, Tensor]],
    metrics: Sequence[Mapping[str, Any]] = (),
    about: Mapping[str, Any] = {},
) -> Path:
    """Write settings, metrics and weights, whole or not at all, instead of what is there; returns the checkpoint.

    `files` are tensors by their names, of "ema.safetensors" and perhaps "model.safetensors"; `about` says in words
    where they come from. Of metrics only finite numbers are kept. Raises MachineError for the disk.
    """
    runs = folder.path.parent
    new = RunFolder(runs / f"{_TEMPORARY}{folder.path.name}-{uuid.uuid4().hex[:8]}")
    old = new.path.with_name(f"{new.path.name}-old")
    try:
        durable.make_folder(runs)
        _sweep(folder)
        needed = sum(one.numel() * one.element_size() for tensors in files.values() for one in tensors.values())
        check_space(runs, needed + (1 << 20), f"{folder.path.name} needs")
        _write(new, card, files, metrics, about)
        durable.replace_folder(new.path, folder.path, old)
        durable.sync_folder(runs)
    except OSError as error:
        raise MachineError(
            f"cannot write to {folder.path}: {error.strerror or error}", "free some space, or choose another --runs-dir"
        ) from None
    finally:
        for path in (new.path, old):
            shutil.rmtree(path, ignore_errors=True)
    return folder.checkpoint(card.step)


def place_foreign(folder: RunFolder, foreign: Foreign, source: str) -> Path:
    """`place` another project's model; `source` is where it comes from, in words."""
    files = {"ema.safetensors": foreign.ema, **({"model.safetensors": foreign.raw} if foreign.raw else {})}
    metrics = [{"step": step, "loss": float(f"{loss:.7g}")} for step, loss in foreign.losses]
    about = {"origin": foreign.origin, "source": source}
    return place(folder, card=foreign.card, files=files, metrics=metrics, about=about)


def _write(
    new: RunFolder,
    card: Card,
    files: Mapping[str, Mapping[str, Tensor]],
    metrics: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> None:
    checkpoint = new.checkpoint(card.step)
    durable.make_folder(checkpoint)
    written = {}
    for name, tensors in files.items():
        own = dataclasses.replace(card, weights=name.partition(".")[0])
        content = tensor_files.pieces(tensors, {KEY: own.to_json()})
        written[name] = durable.write_synced(checkpoint / name, content)
    durable.write_synced(checkpoint / manifest.NAME, manifest.write(card.step, written))
    durable.sync_folder(checkpoint)
    durable.write_synced(new.metrics_file, "".join(map(numbers_line, metrics)).encode())
    durable.write_synced(new.import_file, json.dumps(about, indent=1).encode())
    durable.write_synced(new.config_file, recipes.dump(card.config).encode())
    durable.sync_folder(new.path)


def _sweep(folder: RunFolder) -> None:
    """Remove what a process left behind that was killed while it placed a model of this name."""
    for path in folder.path.parent.glob(f"{_TEMPORARY}*"):
        if re.fullmatch(re.escape(folder.path.name) + r"-[0-9a-f]{8}(-old)?", path.name.removeprefix(_TEMPORARY)):
            shutil.rmtree(path, ignore_errors=True)
