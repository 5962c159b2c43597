"""A trained model as the files that are published: weights, settings, losses and pictures, and a README."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .. import durable, manifest, model_card, recipes, tensor_files
from ..card import KEY, read_card
from ..checkpoint import read_tensors
from ..downloads.models import METRICS, SETTINGS, WEIGHTS
from ..downloads.place import SCHEME
from ..errors import CheckpointError, DataError, UsageError
from ..images import save_png
from ..metrics import numbers_line, read_rows
from ..plots import plot_losses, save_figure
from ..run_folder import RunFolder, run_of
from .output import cast

README = "README.md"
FILES = (README, WEIGHTS, SETTINGS, METRICS, model_card.LOSSES, model_card.GRID)  # all that ditkit ever publishes


def pack(weights: Path, folder: Path, *, repo: str, dtype: str = "float32", data_licence: str | None = None) -> None:
    """Write into an empty folder what is published of a weights file and its run.

    Nothing in it names a place on this machine. `dtype` is float32, float16 or bfloat16. Raises CheckpointError for
    weights that are damaged or do not fit into that.
    """
    card, run = read_card(weights), run_of(weights)
    rows = [row for row in read_rows(run.metrics_file) if row["step"] <= card.step] if run else []
    public = model_card.public_card(card)
    try:
        tensors = cast(read_tensors(weights), getattr(torch, dtype))
    except UsageError as error:  # of what is published, the weights are to blame, not the word
        raise CheckpointError(error.message, error.hint) from None
    content = tensor_files.pieces(tensors, {KEY: replace(public, weights="ema").to_json()})
    durable.write_synced(folder / WEIGHTS, content)
    durable.write_synced(folder / SETTINGS, recipes.dump(public.config).encode())
    pictures = []
    if rows:
        durable.write_synced(folder / METRICS, "".join(map(numbers_line, rows)).encode())
        pictures += _draw_losses(rows, folder, repo)
    pictures += _copy_grid(run, folder) if run else []
    model = model_card.Model(
        card=card,
        repo=repo,
        images=_images(weights.parent),
        validation=_validation(rows),
        dtype=dtype,
        origin=_origin(run),
        data_licence=data_licence,
        pictures=pictures,
    )
    durable.write_synced(folder / README, model_card.write(model).encode())


def _draw_losses(rows: Sequence[Mapping[str, Any]], folder: Path, repo: str) -> list[str]:
    try:
        save_figure(plot_losses({repo.rpartition("/")[2]: rows}), folder / model_card.LOSSES)
    except DataError:  # no losses among the metrics
        return []
    return [model_card.LOSSES]


def _copy_grid(run: RunFolder, folder: Path) -> list[str]:
    """The newest sample grid, its pixels alone."""
    for _, path in reversed(run.sample_grids()):
        try:
            with Image.open(path) as picture:
                save_png(picture.convert("RGB"), folder / model_card.GRID)
        except OSError:  # damaged
            continue
        return [model_card.GRID]
    return []


def _images(checkpoint: Path) -> int | None:
    """How many images a checkpoint was trained on, where it says so."""
    try:
        count = json.loads(manifest.read_file(checkpoint, "state.json")).get("images")
    except (CheckpointError, ValueError, AttributeError, RecursionError):
        return None
    return count if isinstance(count, int) and count > 0 else None


def _validation(rows: Sequence[Mapping[str, Any]]) -> tuple[int, float] | None:
    losses = [(row["step"], row["validation_loss"]) for row in rows if isinstance(row.get("validation_loss"), float)]
    return losses[-1] if losses else None


def _origin(run: RunFolder | None) -> str | None:
    """Where weights that ditkit did not train come from, without places on this machine."""
    if run is None or not run.is_imported():
        return None
    about = run.imported_from()
    source = about.get("source", "")
    named = (about.get("origin", ""), source if source.startswith(SCHEME) else "")
    return ", ".join(one for one in named if one) or "elsewhere"
