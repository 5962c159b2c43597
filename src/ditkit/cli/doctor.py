"""`ditkit doctor`: what is installed, what of it is broken, and what this machine has."""

from __future__ import annotations

from typing import Annotated

import typer

from . import console
from .opt import examples, only
from .options import Output


@examples("ditkit doctor")
def run(output: Annotated[Output, only("runs_dir")]) -> None:
    """Say what is installed, what of it is broken, and what this machine has; a report for bug reports."""
    from ..runtime import installation

    console.data(installation.describe_software())
    broken = []
    with console.loading_torch():
        for name, module, needed in installation.PARTS:
            line, works = installation.describe_part(name, module, needed=needed)
            console.data(line)
            broken += [] if works else [name]
    if "torch" not in broken:
        for line in installation.describe_devices():
            console.data(line)
    for line in installation.describe_folders(output.runs):
        console.data(line)
    if broken:
        console.data(f"broken: {', '.join(broken)}; `pip install --force-reinstall` what is needed, uninstall the rest")
        raise typer.Exit(6)
