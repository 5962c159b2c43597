"""Ditkit compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..evaluation.compare import FILES, _differing, _lines, _row, _write
from ..io import text
from . import complete, console, parsing
from .annotated import OUTPUT, Debug, Device, Force, Json, Labels, Quiet, RawWeights, RunsDir, Seed

EXAMPLES = "Examples:\n\nditkit compare mnist mnist-2\nditkit compare runs/* --labels 3 8 --out mine"

Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN RUN...", autocompletion=complete.run_names, show_default=False, help="Runs by name or folder."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        show_default="a new folder in comparisons/",
        help="Where the pictures and the table go.",
        rich_help_panel=OUTPUT,
    ),
]


def run(
    runs: Runs = None,
    labels: Labels = None,
    seed: Seed = "0",
    no_ema: RawWeights = False,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
    runs_dir: RunsDir = None,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare runs: losses, samples of equal seeds, figures, time, size, and the settings that differ."""
    from ..errors import UsageError
    from ..io.paths import expanded
    from ..runs.folder import runs_dir as runs_place
    from ..runs.lookup import find_run
    from .outputs import check_folder
    from .sample_request import request_from_flags

    found = [find_run(name, runs_place(runs_dir)) for name in runs or []]
    folders = list({one.path.resolve(): one for one in found}.values())  # a run has a name, and a path
    if len(folders) < 2:
        raise UsageError("comparing takes two runs or more", "e.g. `ditkit compare mnist mnist-2`")
    parsing.device(device)
    orders = [
        request_from_flags(labels, {"--seed": seed}, model=str(one.path), runs_dir=runs_dir, ema=not no_ema)
        for one in folders
    ]
    stem = text.slug("-vs-".join(one.path.resolve().name for one in folders[:3]))
    place = expanded(out) if out else text.free_name(Path("comparisons") / stem)
    check_folder(place, list(FILES), force=force)
    table = [_row(folder, order) for folder, order in zip(folders, orders, strict=True)]
    differing = _differing([folder.read_config() for folder in folders])
    _write(place, folders, orders, table, differing, device, quiet=quiet)
    if as_json:
        console.data(json.dumps({"runs": table, "differing": differing, "folder": str(place)}))
    elif not quiet:
        for line in _lines(table, differing):
            console.data(line)
        console.data(text.flat(str(place)))
