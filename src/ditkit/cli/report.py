"""`ditkit report`: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..io import text
from . import complete, console
from .options import OUTPUT, Debug, Force, Quiet, RunsDir

EXAMPLES = "Examples:\n\nditkit report\nditkit report runs/faces --out faces.html"

Which = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]",
        autocompletion=complete.run_names,
        show_default="the newest run",
        help="A run by name or folder.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        show_default="report.html in the run",
        help="Where the page goes.",
        rich_help_panel=OUTPUT,
    ),
]


def run(
    which: Which = None,
    out: Out = None,
    force: Force = False,
    runs_dir: RunsDir = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a run as one page of HTML, to look at or to send: samples over time, losses, figures, settings.

    The page holds all its pictures, and loads nothing from anywhere.
    """
    from ..errors import UsageError
    from ..io import paths
    from ..io.atomic import write_atomically
    from ..io.paths import expanded
    from ..runs.folder import runs_dir as runs_place
    from ..runs.lookup import find_run

    folder = find_run(which, runs_place(runs_dir))
    path = expanded(out) if out else folder.path / "report.html"
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise UsageError(f"--out: {path} is not the name of a web page", "e.g. --out report.html")
    if out:  # what has that name in a run's folder was written by ditkit
        paths.check_file(path, force=force)
    console.hush_matplotlib()
    with console.spinner("writing …", quiet=quiet):
        from ..visual.html_report import run_report

        write_atomically(path, run_report(folder))
    if not quiet:
        console.data(text.flat(str(path)))
