"""`ditkit plot-loss`, `report`, `show` and `list`: what a run did, its settings, and what there is to choose from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from . import complete, console, tables
from .opt import examples, only, opt
from .options import Output
from .outputs import check_suffix

NEWEST = "the newest run"
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Plot."""

    runs: list[str] | None = opt(
        "[RUN]...",
        "Runs by name or folder; several are laid over each other.",
        complete=complete.run_names,
        shown=NEWEST,
    )
    log: bool = opt("--log", "A logarithmic loss axis.")
    by_noise: bool = opt("--by-noise", "One line for each quarter of the noise range.")
    smooth: float = opt("--smooth 0..1", "How much of the past an average keeps; 0 is none.", default=0.98)
    terminal: bool = opt("--terminal", "Plot here, write no file.")


PLOT_FILE = opt("--out FILE", "Where the PNG goes.", shown="loss.png in the run, ./loss.png for several")


@examples("ditkit plot-loss", "ditkit plot-loss mnist mnist-2 --log --out compared.png")
def plot_loss(plot: Plot, output: Annotated[Output, only("out force runs_dir quiet", out=PLOT_FILE)]) -> None:
    """Plot training and validation loss: is it still learning?"""
    from ..errors import UsageError
    from ..io.paths import claim_free
    from ..runs.lookup import losses_of

    if not 0 <= plot.smooth < 1:
        raise UsageError(f"--smooth: {plot.smooth} is not from 0 to below 1", "e.g. --smooth 0.9")
    if plot.terminal and output.out:
        raise UsageError("--terminal writes no file, but --out names one", "leave out one of them")
    rows, folder = losses_of(plot.runs or [None], output.runs)
    if plot.terminal:
        console.data(_drawn(rows))
        return
    if output.out:
        path = check_suffix(output.out, "a picture", "loss.png", ".pdf", ".svg", force=output.force)
    else:  # what has that name in a run's folder was drawn by ditkit
        path = folder / "loss.png" if folder else claim_free(Path("loss"), ".png")
    console.hush_matplotlib()
    with console.spinner("plotting …", quiet=output.quiet):
        from ..visual.plots import plot_losses, save_figure

        save_figure(plot_losses(rows, log=plot.log, by_noise=plot.by_noise, smooth=plot.smooth), path)
    if not output.quiet:
        console.data(str(path))


def _drawn(rows: dict[str, Rows]) -> str:
    from ..visual.terminal_plot import terminal_plot

    size = shutil.get_terminal_size((80, 24))
    return terminal_plot(rows, max(20, min(size.columns, 160) - 1), max(8, min(size.lines - 4, 30)))


@dataclass(frozen=True, kw_only=True)
class Run:
    """Which run."""

    run: str | None = opt("[RUN]", "A run by name or folder.", complete=complete.run_names, shown=NEWEST)


PAGE = opt("--out FILE", "Where the page goes.", shown="report.html in the run")


@examples("ditkit report", "ditkit report runs/faces --out faces.html")
def report(which: Run, output: Annotated[Output, only("out force runs_dir quiet", out=PAGE)]) -> None:
    """Write a run as one page of HTML, to look at or to send: samples over time, losses, figures, settings.

    The page holds all its pictures, and loads nothing from anywhere.
    """
    from ..io import text
    from ..io.atomic import write_atomically
    from ..runs.lookup import find_run

    folder = find_run(which.run, output.runs)
    if output.out:
        path = check_suffix(output.out, "a web page", "report.html", ".htm", force=output.force)
    else:  # what has that name in a run's folder was written by ditkit
        path = check_suffix(folder.path / "report.html", "a web page", "report.html", force=True)
    console.hush_matplotlib()
    with console.spinner("writing …", quiet=output.quiet):
        from ..visual.html_report import run_report

        write_atomically(path, run_report(folder))
    if not output.quiet:
        console.data(text.flat(str(path)))


@dataclass(frozen=True, kw_only=True)
class RecipeOrRun:
    """Whose settings."""

    name: str | None = opt(
        "[RECIPE|RUN]",
        "A recipe, or a run by name or folder; for a run that is called like a recipe give its folder.",
        complete=complete.recipes_and_runs,
        shown=NEWEST,
    )


@examples("ditkit show mnist > mine.toml", "ditkit show runs/mnist")
def show(which: RecipeOrRun, output: Annotated[Output, only("runs_dir")]) -> None:
    """Print the resolved settings of a recipe or a run as TOML."""
    from .. import recipes
    from ..errors import UsageError, unknown
    from ..runs.lookup import find_run, run_names

    if which.name in recipes.descriptions():
        console.data(recipes.dump(recipes.load(which.name)))
        return
    try:
        run = find_run(which.name, output.runs)
    except UsageError:
        if which.name is None:
            raise
        names = dict.fromkeys([*recipes.descriptions(), *run_names(output.runs)])
        raise unknown("recipe or run", which.name, names) from None
    console.data(recipes.dump(run.read_config()))


@dataclass(frozen=True, kw_only=True)
class Family:
    """What to list."""

    family: str | None = opt(
        "[" + "|".join(complete.FAMILIES) + "]",
        "Which family to list.",
        complete=complete.words(*complete.FAMILIES),
        shown="all of them",
    )


@examples("ditkit list", "ditkit list samplers")
def list_(which: Family) -> None:
    """List the datasets, recipes, models, objectives, samplers, autoencoders and trackers by name."""
    from ..errors import unknown

    if which.family is not None and which.family not in complete.FAMILIES:
        raise unknown("family", which.family, complete.FAMILIES)
    if which.family:
        tables.show(tables.columns(_members(which.family)))
        return
    for position, family in enumerate(complete.FAMILIES):
        console.data(f"{chr(10) if position else ''}{family}:")
        tables.show(tables.columns(_members(family), indent="  "))


def _members(family: str) -> dict[str, str]:
    """The names of a family, with a line about each."""
    from .. import registry
    from ..autoencoders.files import descriptions
    from ..models import presets

    if family == "recipes":
        return dict(complete.recipes())
    if family == "models":
        sizes = {name: presets.settings(name) for name in presets.names()}
        lines = {name: ", ".join(f"{key} {value}" for key, value in size.items()) for name, size in sizes.items()}
        return {**lines, presets.DIFFUSERS: "any size, with the parts that `export --format diffusers` takes"}
    return descriptions() if family == "autoencoders" else getattr(registry, family.upper()).descriptions()
