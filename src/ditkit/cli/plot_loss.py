"""`ditkit plot-loss`: the losses of one run or several, as a PNG or in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import complete, console
from .options import OUTPUT, Debug, Force, Quiet, RunsDir

EXAMPLES = "Examples:\n\nditkit plot-loss\nditkit plot-loss mnist mnist-2 --log --out compared.png"
PLOT = "Plot"

Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...",
        autocompletion=complete.run_names,
        show_default="the newest run",
        help="Runs by name or folder; several are laid over each other.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        show_default="loss.png in the run, ./loss.png for several",
        help="Where the PNG goes.",
        rich_help_panel=OUTPUT,
    ),
]
Log = Annotated[bool, typer.Option("--log", help="A logarithmic loss axis.", rich_help_panel=PLOT)]
ByNoise = Annotated[
    bool, typer.Option("--by-noise", help="One line for each quarter of the noise range.", rich_help_panel=PLOT)
]
Smooth = Annotated[
    float,
    typer.Option(
        "--smooth", metavar="0..1", help="How much of the past an average keeps; 0 is none.", rich_help_panel=PLOT
    ),
]
Terminal = Annotated[bool, typer.Option("--terminal", help="Plot here, write no file.", rich_help_panel=PLOT)]


def run(
    runs: Runs = None,
    log: Log = False,
    by_noise: ByNoise = False,
    smooth: Smooth = 0.98,
    terminal: Terminal = False,
    out: Out = None,
    force: Force = False,
    runs_dir: RunsDir = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Plot training and validation loss: is it still learning?"""
    from ..errors import UsageError
    from ..io import paths, text
    from ..io.paths import expanded

    if not 0 <= smooth < 1:
        raise UsageError(f"--smooth: {smooth} is not from 0 to below 1", "e.g. --smooth 0.9")
    if terminal and out:
        raise UsageError("--terminal writes no file, but --out names one", "leave out one of them")
    rows, home = _read(runs, runs_dir)
    if terminal:
        console.data(_drawn(rows))
        return
    if out is None:  # what has that name in a run's folder was drawn by ditkit
        path = home / "loss.png" if home else text.free_name(Path("loss"), ".png")
    else:
        path = expanded(out)
        if path.is_dir() or path.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise UsageError(f"--out: {path} is not the name of a picture", "e.g. --out loss.png")
        paths.check_file(path, force=force)
    console.hush_matplotlib()
    with console.spinner("plotting …", quiet=quiet):
        from ..visual.plots import plot_losses, save_figure

        save_figure(plot_losses(rows, log=log, by_noise=by_noise, smooth=smooth), path)
    if not quiet:
        console.data(str(path))


def _read(words: list[str] | None, runs_dir: Path | None) -> tuple[dict[str, list[dict[str, Any]]], Path | None]:
    """The metrics of every run by a name that tells them apart, and the folder of the run if there is only one."""
    from ..errors import DataError
    from ..runs.folder import runs_dir as runs_place
    from ..runs.lookup import find_run

    found = [find_run(word, runs_place(runs_dir)) for word in dict.fromkeys(words or [None])]
    rows: dict[str, list[dict[str, Any]]] = {}
    for folder in found:
        name = folder.path.resolve().name
        rows[str(folder.path) if name in rows else name] = metrics = folder.metrics()
        if not any("loss" in row for row in metrics):
            raise DataError(f"{folder.path} has no losses yet", "train it first")
    return rows, found[0].path if len(found) == 1 else None


def _drawn(rows: dict[str, list[dict[str, Any]]]) -> str:
    import shutil

    from ..visual.terminal_plot import terminal_plot

    size = shutil.get_terminal_size((80, 24))
    return terminal_plot(rows, max(20, min(size.columns, 160) - 1), max(8, min(size.lines - 4, 30)))
