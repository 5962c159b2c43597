"""Sweep(): every combination of settings."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import recipes
from ..config import RunConfig, SampleConfig, to_dict
from ..errors import UsageError
from ..io import text
from ..io.progress import LOADING_TORCH, Watch, no_progress
from ..runs.folder import runs_dir
from ..runs.lookup import find_weights
from ..runs.model_info import read_model_info
from ..runs.target import check_sampler
from ..visual.grid import check_pictures, grid, save_png
from .figures import FIGURES, HEADINGS, best, notes, written
from .label_plan import DATA
from .real_images import open_real_images, with_data_at

if TYPE_CHECKING:
    from ..checkpoint.loading import Trained
    from ..sampling.generate import Sample
    from .judge import Judge

SHOWN = 12  # images of each combination in the picture
MOST_COMBINATIONS = 100
FILES = ("sweep.png", "sweep.md", "sweep.json")
_EMA = "ema"  # the length of the moving average: of the weights, not a sampling setting
NAMES = ("sampler", "steps", "guidance", "reuse", _EMA)  # in the order of the table's columns
_CAPTIONS = {"steps": "{} steps", "guidance": "guidance {:g}", "reuse": "reuse {}", _EMA: "EMA {:g}"}


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """What one combination of settings drew, what an image took, and its metrics if it was judged.

    `ema` is the length of the moving average, None for the one tracked in training; `calls` are those of the network.
    The time is that of one drawing of all images at once.
    """

    settings: SampleConfig
    ema: float | None
    images: list[Sample]
    calls: int
    seconds_an_image: float
    computed: dict[str, str] = field(default_factory=dict)  # dtype and kernels that drew
    metrics: dict[str, float] | None = None
    about: dict[str, Any] | None = None  # what the metrics depend on, as in `Evaluation`

    def values(self) -> dict[str, Any]:
        """The settings that are columns of the table."""
        return {name: self.ema if name == _EMA else getattr(self.settings, name) for name in NAMES}

    def record(self) -> dict[str, Any]:
        """All but the images, as plain data."""
        judged = {} if self.metrics is None else {"metrics": self.metrics, "judged": self.about}
        drawn = {"calls": self.calls, "seconds_an_image": self.seconds_an_image, **self.computed}
        return {**self.values(), **drawn, **judged}


def sweep(
    model: str | Path | None,
    varied: Mapping[str, Sequence[Any]],
    *,
    labels: Sequence[str | int] | None = None,
    seed: int = 0,
    samples: int | None = None,
    labels_as: str = DATA,
    features: str | None = None,
    data_dir: str | None = None,
    ema: bool = True,
    autoencoder: str | Path | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    kernels: str = "auto",
    progress: Watch = no_progress,
    on_row: Callable[[SweepRow], None] = lambda _row: None,
) -> list[SweepRow]:
    """Draw the same images with every combination of settings, and judge each combination if `samples` are given.

    Args:
        model: what draws, as `load` takes it: a run by name or folder (the newest if None), a weights file …
        varied: values by the names of sampling settings, and lengths of the moving average by "ema":
            {"steps": [10, 20], "guidance": [1, 1.5, 2]}. What is not in it is as the model was trained to be sampled.
        labels: of the images to look at; the first 12 of the model if None. Image i is drawn from seed `seed + i`.
        samples: images of each combination that are judged as `evaluate` does, at least 10; None judges none.
        labels_as: of the images that are judged: "data", as often as the real images have them, or "even".
        features: who looks at them, as in `open_judge`.
        data_dir: where the real images are now; where they were in training if None.
        ema, autoencoder, dtype, kernels: as in `load`.
        batch_size: of the images to judge; what fits if None.
        progress: shown what is being done.
        on_row: called with each row as soon as it is drawn.

    Raises:
        UsageError: for values that do not fit the setting or the model, for more than 100 combinations, for a length
            where no snapshots were kept, and for an unknown label.
        CheckpointError: for a model that is missing or damaged.
        DataError: without real images to judge by.
    """
    weights = find_weights(None if model is None else str(model), runs_dir(), ema=ema)
    info = read_model_info(weights)
    todo = combinations(info.config, varied)
    check_pictures(info.labels)
    judge = _open_judge(info.config, data_dir, features, device, progress) if samples else None
    labels = labels or list(info.labels[:SHOWN]) or ["any"] * SHOWN
    loading = {"autoencoder": autoencoder, "device": device, "dtype": dtype, "kernels": kernels}
    models = _loaded(weights, [length for _, length in todo], loading, progress)
    _row(models[todo[0][1]], replace(info.config.sample, steps=2), None, labels, seed)  # what happens only once
    rows = []
    with progress("drawing") as show:
        for settings, length in todo:
            row = _row(models[length], settings, length, labels, seed)
            if judge is not None and samples:
                row = _judged(row, models[length], judge, samples, seed, batch_size, labels_as)
            rows.append(row)
            on_row(row)
            show(len(rows), len(todo))
    return rows


def _open_judge(config: RunConfig, data_dir: str | None, features: str | None, device: str, progress: Watch) -> Judge:
    config = with_data_at(config, data_dir)
    images = open_real_images(config.data, named=data_dir is not None)
    with progress(LOADING_TORCH):
        from ..runtime.device import find_device
        from .judge import open_judge
    place = find_device(device)
    with progress("looking at real images") as show:
        return open_judge(config, features=features, device=place, dataset=images, on_image=show)


def _loaded(
    weights: Path, lengths: Iterable[float | None], loading: dict[str, Any], progress: Watch
) -> dict[float | None, Trained]:
    """The model of each length of the moving average; `loading` are arguments of `load`."""
    with progress(LOADING_TORCH):
        from ..checkpoint.loading import load
        from ..checkpoint.posthoc_ema import average
        from ..runtime.device import find_device
    paths = {length: weights if length is None else average(weights, length) for length in lengths}
    loading = {**loading, "device": find_device(loading["device"])}
    return {length: load(path, **loading) for length, path in paths.items()}


def combinations(config: RunConfig, varied: Mapping[str, Sequence[Any]]) -> list[tuple[SampleConfig, float | None]]:
    """Every combination of the values in `varied` (see `sweep`), checked: settings, and length of the moving average.

    Raises UsageError, which names the setting: `sample.steps: …`.
    """
    if len(unknown_names := varied.keys() - set(NAMES)):
        raise UsageError(f"cannot vary {', '.join(sorted(unknown_names))}", f"known: {', '.join(NAMES)}")
    lists = {name: list(dict.fromkeys(varied[name])) for name in NAMES if varied.get(name)}
    count = 1
    for values in lists.values():
        count *= len(values)
    if count > MOST_COMBINATIONS:
        raise UsageError(f"that makes {count:,} ways to draw", f"list fewer: at most {MOST_COMBINATIONS}")
    return [
        _combination(config, dict(zip(lists, values, strict=True))) for values in itertools.product(*lists.values())
    ]


def _combination(config: RunConfig, values: dict[str, Any]) -> tuple[SampleConfig, float | None]:
    length = values.pop(_EMA, None)
    config = recipes.build(to_dict(config), {"train": {"accumulate": 1}, "sample": values})
    check_sampler(config)
    return config.sample, None if length is None else float(length)


def _row(
    trained: Trained, settings: SampleConfig, length: float | None, labels: Sequence[str | int], seed: int
) -> SweepRow:
    """What these settings draw, the network calls that each image took, and the seconds."""
    from ..sampling.generate import sample

    calls = 0

    def count(_call: int, of: int, *_: Any) -> None:
        nonlocal calls
        calls = of

    started = time.perf_counter()
    images = sample(trained, labels, settings=settings, seed=seed, batch_size=len(labels), on_step=count)
    seconds = (time.perf_counter() - started) / len(images)
    computed = trained.compute.record
    return SweepRow(
        settings=settings, ema=length, images=images, calls=calls, seconds_an_image=seconds, computed=computed
    )


def _judged(
    row: SweepRow, trained: Trained, judge: Judge, samples: int, seed: int, batch_size: int | None, labels_as: str
) -> SweepRow:
    """The row with the metrics of its settings, as `evaluate` measures them."""
    from .evaluate import evaluate

    how = {"samples": samples, "seed": seed, "batch_size": batch_size, "labels_as": labels_as}
    evaluation = evaluate(trained, judge, settings=row.settings, **how)
    return replace(row, metrics=evaluation.metrics, about=evaluation.about)


def write(folder: Path, rows: Sequence[SweepRow], about: Mapping[str, Any], *, title: str) -> None:
    """The picture with a row for each combination, the table, and the rows as JSON with what is said `about` them."""
    from ..io.atomic import make_folder, write_atomically

    make_folder(folder)
    images = [image for row in rows for image in row.images]
    captions = [image.label for image in images if image.label is not None]
    values = [row.values() for row in rows]
    differing = [name for name in NAMES if len({value[name] for value in values}) > 1] or ["steps"]
    picture = grid(
        [image.image for image in images],
        len(rows[0].images),
        captions=captions or None,
        row_names=[", ".join(_CAPTIONS.get(name, "{}").format(value[name]) for name in differing) for value in values],
        title=title,
    )
    save_png(picture, folder / FILES[0], {"seed": str(about["seed"]), "software": "ditkit"})
    write_atomically(folder / FILES[1], "\n".join(table(rows)) + "\n")
    write_atomically(folder / FILES[2], json.dumps(record(rows, about), indent=1) + "\n")


def record(rows: Sequence[SweepRow], about: Mapping[str, Any]) -> dict[str, Any]:
    """All but the images, as plain data."""
    return {**about, "ways": [row.record() for row in rows]}


def table(rows: Sequence[SweepRow]) -> list[str]:
    """Lines of Markdown; of each metric the best is bold, where it is best by more than noise. Notes follow."""
    values = [row.values() for row in rows]
    names = [name for name in NAMES if any(value[name] is not None for value in values)]
    metrics = [(row.metrics or {}) for row in rows]
    keys = [key for key in FIGURES if any(key in scores for scores in metrics)]
    winners = {key: best(metrics, key) for key in keys}
    lines = []
    for index, (row, value, scores) in enumerate(zip(rows, values, metrics, strict=True)):
        cells = [f"{value[name]:g}" if isinstance(value[name], float) else str(value[name]) for name in names]
        cells += [str(row.calls), f"{1000 * row.seconds_an_image:.0f}"]
        for key in keys:
            score = written(scores, key)
            cells.append(f"**{score}**" if winners[key] == index else score)
        lines.append(cells)
    took = f"ms an image, {len(rows[0].images)} at once"  # measured once
    headings = [*names, "calls", took, *(HEADINGS.get(key, key) for key in keys)]
    return text.markdown(headings, lines) + (["", *_notes(rows, metrics)] if keys else [])


def _notes(rows: Sequence[SweepRow], metrics: Sequence[Mapping[str, float]]) -> list[str]:
    """What the figures of the table are of, and what cannot be told from them."""
    about = next(row.about for row in rows if row.about)
    real, part = about["reference"]["images"], about["reference"].get("part", 0)
    compared = f"{about['drawn']['samples']:,} images a row against {real:,} real ones"
    if part:
        distance = next(scores["frechet_real"] for scores in metrics if "frechet_real" in scores)
        compared += f" (the Fréchet distance of {part:,} of these to the other {real - part:,} is {distance:.4g})"
    said = [about["labels"]] if about["labels"] else []
    return ["; ".join([compared, *said]), *notes(metrics, "draw more images (--samples)")]
