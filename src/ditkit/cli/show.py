"""`ditkit show`: the settings of a recipe or a run, as TOML that can be saved, edited and given to --config."""

from __future__ import annotations

from typing import Annotated

import typer

from . import complete, console
from .options import Debug, RunsDir

EXAMPLES = "Examples:\n\nditkit show mnist > mine.toml\nditkit show runs/mnist"

What = Annotated[
    str | None,
    typer.Argument(
        metavar="[RECIPE|RUN]",
        autocompletion=complete.recipes_and_runs,
        show_default="the newest run",
        help="A recipe, or a run by name or folder; for a run that is called like a recipe give its folder.",
    ),
]


def run(what: What = None, runs_dir: RunsDir = None, debug: Debug = False) -> None:
    """Print the resolved settings of a recipe or a run as TOML."""
    from .. import recipes
    from ..errors import UsageError, unknown
    from ..runs.folder import runs_dir as runs_place
    from ..runs.lookup import find_run, run_names

    runs = runs_place(runs_dir)
    if what in recipes.descriptions():
        console.data(recipes.dump(recipes.load(what)))
        return
    known = [*recipes.descriptions(), *run_names(runs)]
    try:
        found = find_run(what, runs)
    except UsageError:
        if what is None:
            raise
        raise unknown("recipe or run", what, dict.fromkeys(known)) from None
    console.data(recipes.dump(found.read_config()))
