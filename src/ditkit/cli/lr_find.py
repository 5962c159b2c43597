"""`ditkit lr-find`: a learning-rate range test, as a picture, a file and one number."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import complete, console
from .annotated import (
    DATA,
    OPTIMISER,
    OUTPUT,
    Autoencoder,
    Config,
    DataDir,
    Debug,
    Device,
    Force,
    ImageSize,
    Json,
    LabelBy,
    LabelFile,
    Quiet,
    RunsDir,
    Settings,
    Yes,
)

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..data.contract import Datasets
    from ..training.lr_finder import LRCurve


EXAMPLES = "Examples:\n\nditkit lr-find\nditkit lr-find celeba --data-dir ~/celeba"

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[DATASET|RECIPE|FOLDER|RUN]",
        autocompletion=complete.training_targets,
        show_default="the newest run, else mnist",
        help="What would be trained.",
    ),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        "--batch-size", metavar="N", show_default="the recipe's", help="Images in a step.", rich_help_panel=DATA
    ),
]
Seed = Annotated[
    str | None,
    typer.Option("--seed", metavar="N", show_default="the recipe's", help="For the draws.", rich_help_panel=OPTIMISER),
]
Steps = Annotated[
    int,
    typer.Option("--steps", metavar="N", min=20, max=10_000, help="Rates to try.", rich_help_panel=OPTIMISER),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        show_default="lr-find-NAME.png",
        help="Where the plot goes; the numbers go beside it as .json.",
        rich_help_panel=OUTPUT,
    ),
]


def run(
    target: Target = None,
    config: Config = None,
    settings: Settings = None,
    data_dir: DataDir = None,
    label_by: LabelBy = None,
    label_file: LabelFile = None,
    image_size: ImageSize = None,
    autoencoder: Autoencoder = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    steps: Steps = 120,
    device: Device = "auto",
    out: Out = None,
    force: Force = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
    yes: Yes = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find a learning rate: a short sweep over real data that leaves no trace in any run.

    The rate rises step by step, and each is scored on the same images and noise. `ditkit train --lr auto` does the
    same before it trains.
    """
    from ..io import text
    from ..runs import target as run_target
    from ..runs.folder import runs_dir as runs_place
    from ..runs.lookup import run_names
    from . import datasets, outputs, parsing

    runs = runs_place(runs_dir)
    if target is None and config is None:
        target = (run_names(runs) or ["mnist"])[0]
        found = run_target.find_target(str(runs / target) if run_names(runs) else target, runs)
    else:
        found = run_target.find_target(target, runs) if target is not None else None
    flags = {
        "--batch-size": batch_size,
        "--seed": seed,
        "--data-dir": data_dir,
        "--label-by": label_by,
        "--label-file": label_file,
        "--image-size": image_size,
        "--autoencoder": autoencoder,
    }
    resolved = run_target.build(found, file=config, settings=settings or [], flags=flags)
    stem = f"lr-find-{text.slug(run_target.name_of(found, config))}"
    path = outputs.png_path(out, stem, force=force, beside=".json")
    parsing.device(device)
    opened = datasets.open_training_images(resolved, quiet=quiet, yes=yes)
    curve = measure(resolved, opened, device, steps=steps, quiet=quiet)
    _tell(curve, path, write(curve, path), as_json=as_json, quiet=quiet)


def measure(config: RunConfig, datasets: Datasets, device: str, *, steps: int = 120, quiet: bool) -> LRCurve:
    """The range test, with a bar."""
    from .datasets import watching

    with console.loading_torch(quiet=quiet):
        from ..training.lr_finder import find_lr
    shown: list[Callable[[float, float | None], None]] = []
    with watching(quiet=quiet), ExitStack() as opened:

        def on_step(step: int, steps: int, *_: float) -> None:
            if not shown:  # not before: latents may be made first, with a bar of their own
                shown.append(opened.enter_context(console.bar("trying learning rates", quiet=quiet)))
            shown[0](step, steps)

        return find_lr(config, device=device, steps=steps, on_step=on_step, datasets=datasets)


def write(curve: LRCurve, path: Path) -> Path:
    """The plot, and the numbers beside it as .json; returns the latter's path."""
    import json

    console.hush_matplotlib()
    from ..io.atomic import write_file
    from ..visual.plots import plot_lr, save_figure

    numbers = path.with_suffix(".json")
    save_figure(plot_lr(curve), path)
    write_file(numbers, json.dumps(asdict(curve), indent=1, allow_nan=False).encode())
    return numbers


def _tell(curve: LRCurve, path: Path, numbers: Path, *, as_json: bool, quiet: bool) -> None:
    import json

    rates = {"suggestion": curve.suggestion, "maximum": curve.maximum}
    if as_json:
        console.data(json.dumps({**rates, "plot": str(path), "numbers": str(numbers)}))
    elif not quiet:
        console.data(f"suggested learning rate: {curve.suggestion:.2e} (safe up to {curve.maximum:.2e})")
        console.say(f"plot in {path}, numbers in {numbers}")
        console.say(f"next: train with `--lr {curve.suggestion:.2e}`")
