"""What is published of a model: weights, settings, losses, the newest sample grid, and a model card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DataError, UsageError
from ..io import atomic
from ..io.hub import SCHEME
from ..io.progress import LOADING_TORCH, Watch, no_progress
from ..io.reading import open_picture
from ..runs import manifest
from ..runs.folder import RunFolder, run_of
from ..runs.lookup import METRICS, SETTINGS, WEIGHTS
from ..runs.metrics import numbers_line, read_metrics
from ..runs.model_info import METADATA_KEY, read_model_info
from ..runs.public import public_card
from ..runs.stored import config_text
from . import readme

README = "README.md"
FILES = (README, WEIGHTS, SETTINGS, METRICS, readme.LOSSES, readme.GRID)  # all that ditkit ever publishes


def preview(
    weights: Path, repo: str, *, dtype: str = "float32", data_licence: str | None = None, progress: Watch = no_progress
) -> tuple[dict[str, int], str]:
    """What `push` would send of a weights file: sizes in bytes by file name, and the text of the README."""
    with packed(weights, repo, dtype, data_licence, progress) as (folder, files):
        return files, (folder / README).read_text(encoding="utf-8")


@contextmanager
def packed(
    weights: Path, repo: str, dtype: str, data_licence: str | None, progress: Watch
) -> Iterator[tuple[Path, dict[str, int]]]:
    """A folder with what is sent, which goes again, and the sizes of its files."""
    with tempfile.TemporaryDirectory(prefix="ditkit-push-") as place:
        with progress(LOADING_TORCH):
            import torch  # noqa: F401
        with progress("packing …"):
            files = collect_files(weights, Path(place), repo=repo, dtype=dtype, data_licence=data_licence)
        yield Path(place), files


def collect_files(
    weights: Path, folder: Path, *, repo: str, dtype: str = "float32", data_licence: str | None = None
) -> dict[str, int]:
    """Write into an empty folder what is published of a weights file and its run; returns the files' sizes.

    Nothing in it names a place on this machine. `dtype` is float32, float16 or bfloat16. Raises CheckpointError for
    weights that are damaged or do not fit into that.
    """
    import torch

    from ..checkpoint.loading import check_fits, read_tensors
    from ..io import safetensors
    from .base import cast

    info, run = read_model_info(weights), run_of(weights)
    rows = [row for row in read_metrics(run.metrics_file) if row["step"] <= info.step] if run else []
    public = public_card(info)
    try:
        tensors = read_tensors(weights)
        check_fits(info, tensors, weights)
        tensors = cast(tensors, getattr(torch, dtype))
    except UsageError as error:  # of what is published, the weights are to blame, not the word
        raise CheckpointError(error.message, error.hint) from None
    content = safetensors.pieces(tensors, {METADATA_KEY: replace(public, weights="ema").to_json()})
    atomic.write_synced(folder / WEIGHTS, content)
    atomic.write_synced(folder / SETTINGS, config_text(public.config).encode())
    pictures = []
    if rows:
        atomic.write_synced(folder / METRICS, "".join(map(numbers_line, rows)).encode())
        pictures += _draw_losses(rows, folder, repo)
    pictures += _copy_grid(run, folder) if run else []
    model = readme.Model(
        info=info,
        repo=repo,
        images=_images(weights.parent),
        validation=_validation(rows),
        dtype=dtype,
        origin=_origin(run),
        data_licence=data_licence,
        pictures=pictures,
    )
    atomic.write_synced(folder / README, readme.write(model).encode())
    return {name: (folder / name).stat().st_size for name in FILES if (folder / name).is_file()}


def _draw_losses(rows: Sequence[Mapping[str, Any]], folder: Path, repo: str) -> list[str]:
    from ..visual.plots import plot_losses, save_figure

    try:
        save_figure(plot_losses({repo.rpartition("/")[2]: rows}), folder / readme.LOSSES)
    except DataError:  # no losses among the metrics
        return []
    return [readme.LOSSES]


def _copy_grid(run: RunFolder, folder: Path) -> list[str]:
    """The newest sample grid, its pixels alone."""
    from ..visual.grid import save_png

    for _, path in reversed(run.sample_grids()):
        try:
            save_png(open_picture(path), folder / readme.GRID)
        except DataError:  # damaged
            continue
        return [readme.GRID]
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
    return ", ".join(part for part in named if part) or "elsewhere"
