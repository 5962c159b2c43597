"""`ditkit lr-find`: a learning-rate range test, as a picture, a file and one number."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from . import complete, console
from .opt import examples, only, opt
from .options import DATA, RECIPES, Data, Device, Latents, Output, Settings
from .outputs import png_path, show_result

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..data.contract import Datasets
    from ..estimation.lr_finder import LRCurve


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to measure on."""

    target: str | None = opt(
        "[DATASET|RECIPE|FOLDER|RUN]",
        "What would be trained.",
        complete=complete.training_targets,
        shown="the newest run, else mnist",
    )


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Optimiser: the rates to try."""

    batch_size: str | None = opt(
        "--batch-size N", "Images in a step.", shown=RECIPES, panel=DATA, sets="train.batch_size"
    )
    seed: str | None = opt("--seed N", "For the draws.", shown=RECIPES, sets="seed")
    steps: int = opt("--steps N", "Rates to try.", default=120, min=20, max=10_000)


PLOT = opt("--out FILE", "Where the plot goes; the numbers go beside it as .json.", shown="lr-find-NAME.png")


@examples("ditkit lr-find", "ditkit lr-find celeba --data-dir ~/celeba")
def run(
    what: Target,
    settings: Settings,
    data: Data,
    latents: Latents,
    sweep: Sweep,
    machine: Device,
    output: Annotated[Output, only("out force runs_dir json yes quiet", out=PLOT)],
) -> None:
    """Find a learning rate: a short sweep over real data that leaves no trace in any run.

    The rate rises step by step, and each is scored on the same images and noise: this shows the largest at which a
    short test still learns, no more. A rate found by whole runs is better. `ditkit train --lr auto` does the same
    before it trains.
    """
    from ..io import text
    from ..runs.lookup import run_names
    from .datasets import open_training_images, resolve_settings

    runs = run_names(output.runs)
    target = what.target or ("" if settings.config else str(output.runs / runs[0]) if runs else "mnist")
    config, name = resolve_settings(target, settings, output, data, latents, sweep, device=machine.device)
    stem = f"lr-find-{text.slug(name)}"
    path = png_path(output.out, stem, force=output.force, beside=".json") if output.out else None
    datasets = open_training_images(config, quiet=output.quiet, yes=output.yes)
    path = path or png_path(None, stem, force=output.force, beside=".json")
    curve = measure(config, datasets, machine.device, steps=sweep.steps, quiet=output.quiet)
    _print_curve(curve, config, path, draw(curve, path), output)


def measure(
    config: RunConfig,
    datasets: Datasets,
    device: str,
    *,
    steps: int = 120,
    should_stop: Callable[[], bool] = lambda: False,
    quiet: bool,
) -> LRCurve:
    """The range test, with a bar. Raises KeyboardInterrupt when `should_stop` says so."""
    from .datasets import watching

    console.hush_matplotlib()
    with console.loading_torch(quiet=quiet):
        from ..estimation.lr_finder import find_lr
        from ..visual.plots import check_plots
    check_plots()
    shown: list[Callable[[float, float | None], None]] = []
    with watching(quiet=quiet), ExitStack() as opened:

        def on_step(step: int, steps: int, *_: float) -> None:
            if not shown:  # not before: latents may be made first, with a bar of their own
                shown.append(opened.enter_context(console.bar("trying learning rates", quiet=quiet)))
            shown[0](step, steps)

        return find_lr(config, device=device, steps=steps, on_step=on_step, datasets=datasets, should_stop=should_stop)


def draw(curve: LRCurve, path: Path) -> Path:
    """Write the plot and its numbers; returns the path of these."""
    from ..visual.plots import save_lr_curve

    return save_lr_curve(curve, path)


def _print_curve(curve: LRCurve, config: RunConfig, path: Path, numbers: Path, output: Output) -> None:
    from ..runs.rates import advice

    rates = {"suggestion": curve.suggestion, "lowest": curve.lowest, "configured": curve.configured}
    line = f"the loss of this short test is lowest at a learning rate of {curve.lowest:.2e}, and rises above it"
    show_result(output, {**rates, "plot": str(path), "numbers": str(numbers)}, [line])
    console.say(f"plot in {path}, numbers in {numbers}", quiet=output.quiet or output.json)
    console.say(advice(curve.suggestion, curve.configured, config), quiet=output.quiet or output.json)
