"""Compare(): runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..errors import DataError, UsageError
from ..io import text
from ..io.atomic import make_folder, write_atomically
from ..io.progress import LOADING_TORCH, Progress, Watch, no_progress
from ..models.size import parameters
from ..runs.folder import RunFolder, run_of, runs_dir
from ..runs.lookup import find_weights
from ..runs.metrics import read_evaluations, spent_seconds
from ..runs.model_info import ModelInfo, read_model_info, resolve_labels
from ..runs.stored import differences
from .figures import HEADINGS, notes, written
from .label_plan import DATA, EVEN

SHOWN = 10  # images of each run
COMPARED = ("frechet", "kid", "accuracy")  # figures of the newest evaluation
# Settings that decide what a loss is of.
_OF_LOSSES = ("data.name", "data.path", "data.image_size", "data.channels", "data.crop", "data.validation")
_OF_LOSSES += ("autoencoder.", "diffusion.")
_LABELS = {DATA: "labels as in the data", EVEN: "labels in turn", None: "no labels"}
FILES = ("losses.png", "samples.png", "compare.md", "compare.json")


def compare(
    runs: Sequence[str | Path],
    folder: str | Path,
    *,
    labels: Sequence[str | int] | None = None,
    seed: int = 0,
    ema: bool = True,
    autoencoder: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    kernels: str = "auto",
    progress: Watch = no_progress,
) -> dict[str, Any]:
    """Compare runs: their losses, samples of equal seeds, figures, and the settings that differ.

    Args:
        runs: two runs or more, by name or folder, or weights files in them.
        folder: where losses.png, samples.png, compare.md and compare.json are written.
        labels: of the samples, at most 10, which all runs know; if None, those that all runs have in common.
        seed: image i is drawn from seed `seed + i`, in each run.
        ema: draw with the averaged weights instead of the raw ones.
        autoencoder, dtype, kernels: as in `load`, the same for all.
        progress: shown how far the drawing is.

    Returns:
        What compare.json has: "runs", a dict of figures for each, with the newest "evaluation", and "differing", the
        settings that are not the same in all runs, each with the list of its values.

    Raises:
        UsageError: for fewer than two runs, for one that is not there, and for an unknown label.
        CheckpointError: for a run without a whole checkpoint.
    """
    paths = [find_weights(str(run), runs_dir(), ema=ema) for run in runs]
    by_run = {_run_of(path).path: path for path in paths}  # each run once
    folders, weights = several([RunFolder(path) for path in by_run]), list(by_run.values())
    infos = [read_model_info(path) for path in weights]
    rows = [_row(run, info) for run, info in zip(folders, infos, strict=True)]
    comparison = {"runs": rows, "differing": _differing([run.read_config() for run in folders])}
    with progress(LOADING_TORCH):
        from ..visual.plots import plot_losses, save_figure
    place, names = Path(folder), [str(row["run"]) for row in rows]
    make_folder(place)
    save_figure(plot_losses({name: run.metrics() for name, run in zip(names, folders, strict=True)}), place / FILES[0])
    wanted = _labels_drawn([info.labels for info in infos], labels)
    loading = {"autoencoder": autoencoder, "device": device, "dtype": dtype, "kernels": kernels}
    _draw(place / FILES[1], names, weights, wanted, seed, loading, progress)
    write_atomically(place / FILES[2], "\n".join(table(comparison)) + "\n")
    write_atomically(place / FILES[3], json.dumps(comparison, indent=1) + "\n")
    return comparison


def several(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """The runs, each once whatever it was called. Raises UsageError for fewer than two."""
    distinct = list({run.path.resolve(): run for run in runs}.values())
    if len(distinct) < 2:
        raise UsageError("comparing takes two runs or more", "e.g. `ditkit compare mnist mnist-2`")
    return distinct


def _run_of(weights: Path) -> RunFolder:
    run = run_of(weights)
    if run is None:
        raise UsageError(f"{weights} is not in a run's folder", "name runs by name or folder")
    return run


def _row(run: RunFolder, info: ModelInfo) -> dict[str, Any]:
    """The figures of a run."""
    rows = run.metrics()
    validation = [row["validation_loss"] for row in rows if "validation_loss" in row]
    figures: dict[str, Any] = {
        "run": run.path.resolve().name,
        "step": info.step,
        "parameters": parameters(info.config, len(info.labels)),
        "batch size": info.config.train.batch_size,
        "minutes in steps": spent_seconds(rows) / 60,
        "validation loss": validation[-1] if validation else None,
        "lowest validation loss": min(validation) if validation else None,
    }
    try:
        evaluations = read_evaluations(run.evaluation_file)
    except DataError:
        evaluations = []
    return figures | ({"evaluation": _evaluation(evaluations[-1])} if evaluations else {})


def _evaluation(record: Mapping[str, Any]) -> dict[str, Any]:
    """The newest figures of a run, and what other figures must have in common with them to be compared."""
    drawn, features, reference = (record.get(key, {}) for key in ("drawn", "features", "reference"))
    return {
        "metrics": {key: value for key, value in record["metrics"].items() if key.removesuffix("_error") in COMPARED},
        "images": drawn.get("samples"),
        "features": features.get("name"),
        "labels_as": drawn.get("labels_as", EVEN),  # as older records were, which do not say it
        "reference": reference.get("hash"),
    }


def _differing(configs: Sequence[RunConfig]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs, each with the values in the order of the runs."""
    keys = dict.fromkeys(key for other in configs[1:] for key in differences(configs[0], other))
    return {key: [reduce(getattr, key.split("."), config) for config in configs] for key in keys}


def _labels_drawn(known: Sequence[Sequence[str]], labels: Sequence[str | int] | None) -> list[list[str]]:
    """The labels of each run's row: the same where all runs know them, else each run's own, in rows of one length."""
    own = [list(names) or ["any"] * SHOWN for names in known]
    if labels:
        common = [label or "any" for label in resolve_labels(known[0], labels)][:SHOWN]
    else:
        common = [label for label in own[0] if all(label in names for names in own)][:SHOWN]
    across = len(common) or SHOWN
    return [((common or names) * across)[:across] for names in own]


def _draw(
    path: Path,
    names: Sequence[str],
    weights: Sequence[Path],
    labels: Sequence[Sequence[str]],
    seed: int,
    loading: dict[str, Any],
    progress: Watch,
) -> None:
    """A picture with a row of samples for each run, whose network is loaded with arguments of `load`."""
    from ..checkpoint.loading import load
    from ..runtime.device import find_device
    from ..sampling.generate import sample
    from ..visual.grid import grid, save_png

    loading, across = {**loading, "device": find_device(loading["device"])}, len(labels[0])
    images = []
    for source, wanted in zip(weights, labels, strict=True):
        trained = load(source, **loading)
        with progress("drawing") as show:

            def on_step(step: int, steps: int, *_: Any, show: Progress = show) -> None:
                show((step + 1) / steps * across, across)

            images += sample(trained, wanted, seed=seed, on_step=on_step)
    captions = [image.label or f"seed {image.seed}" for image in images]
    picture = grid([image.image for image in images], across, captions=captions, row_names=names)
    save_png(picture, path, {"software": "ditkit"})


def table(comparison: Mapping[str, Any]) -> list[str]:
    """Markdown: a table of the figures, what they are of, and a table of the settings that differ."""
    rows, differing = [dict(row) for row in comparison["runs"]], comparison["differing"]
    evaluations = [row.pop("evaluation", None) for row in rows]
    for row, evaluation in zip(rows, evaluations, strict=True):
        row |= _figures(evaluation) if evaluation else {}
    heads = list(dict.fromkeys(key for row in rows for key in row))
    lines = text.markdown(heads, [[_cell(row.get(head)) for head in heads] for row in rows])
    said = _notes([evaluation for evaluation in evaluations if evaluation])
    if others := [key for key in differing if key.startswith(_OF_LOSSES)]:
        said.append(f"other {', '.join(others)}: losses of different images or objectives do not compare")
    if said:
        lines += ["", *said]
    if differing:
        names = [str(row["run"]) for row in rows]
        settings = [[key, *map(text.as_toml, values)] for key, values in differing.items()]
        lines += ["", *text.markdown(["setting", *names], settings)]
    return lines


def _figures(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """The cells of an evaluation: figures of other images, features or labels are in other columns."""
    metrics, features = evaluation["metrics"], evaluation["features"] or "features unknown"
    of = f"({features}, {evaluation['images']} images, {_LABELS[evaluation['labels_as']]})"
    return {f"{HEADINGS.get(key, key)} {of}": written(metrics, key) for key in COMPARED if key in metrics}


def _notes(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the figures of different runs say of each other."""
    if len(evaluations) < 2:
        return []
    for keys, others in (
        (("images", "features", "labels_as"), "were drawn or seen in different ways (the headings say how)"),
        (("reference",), "were compared with different real ones"),
    ):
        if len({tuple(evaluation[key] for key in keys) for evaluation in evaluations}) > 1:
            return [f"the runs' images {others}: their figures do not compare"]
    return notes([evaluation["metrics"] for evaluation in evaluations], "evaluate more images (--samples)")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else text.flat(str(value))
