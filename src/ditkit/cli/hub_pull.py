"""`ditkit hub pull`: a model of ditkit's from the hub, by a name, among the runs."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from . import console
from .annotated import OUTPUT, Debug, Quiet, RunsDir, Yes

if TYPE_CHECKING:
    from ..io.hub import HubAddress
    from ..runs.folder import RunFolder


EXAMPLES = "Examples:\n\nditkit hub pull someone/digits\nditkit hub pull someone/digits@v2 --as digits-2"

What = Annotated[
    str | None,
    typer.Argument(
        metavar="REPO[@REVISION]", show_default=False, help="user/name on the hub, perhaps at a commit, tag or branch."
    ),
]
As = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="NAME", show_default="the repository's", help="What it is called here.", rich_help_panel=OUTPUT
    ),
]


def run(
    repo: What = None,
    name: As = None,
    yes: Yes = False,
    runs_dir: RunsDir = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fetch a model of ditkit's, checked, so that `sample`, `make-gif` and `plot-loss` take it by its name.

    Pulled again, it becomes what the repository has by then.
    """
    from ..errors import UsageError
    from ..io import text
    from ..io.hub import parse
    from ..runs.folder import RunFolder
    from ..runs.folder import runs_dir as runs_place
    from ..runs.lookup import METRICS, fetch_model
    from .datasets import watching

    if repo is None:
        raise UsageError("pull what?", "e.g. `ditkit hub pull someone/digits`")
    place = parse(repo)
    own = text.slug(place.repo.rpartition("/")[2])
    folder = RunFolder(runs_place(runs_dir) / (text.run_name(name, "--as") if name is not None else own))
    _check_name(folder, place)
    with watching(quiet=quiet, yes=yes):
        fetched = fetch_model(place, (METRICS,))
    with console.loading_torch(quiet=quiet):
        from ..interop.import_model import write_pulled
    with console.spinner(f"writing {folder.path} …", quiet=quiet):
        info = write_pulled(fetched, folder)
    console.say(f"step {info.step:,}, {len(info.labels)} labels", quiet=quiet)
    spoken = shlex.quote(str(folder.path) if runs_dir is not None else folder.path.name)
    console.say(f"draw with `ditkit sample --model {spoken}`", quiet=quiet)
    if not quiet:
        console.data(str(folder.path))


def _check_name(folder: RunFolder, place: HubAddress) -> None:
    """Raise UsageError where something else than an earlier state of the same model would be replaced."""
    import os

    from ..errors import UsageError
    from ..io.hub import is_hub, parse

    source = folder.imported_from().get("source")
    same = source is not None and is_hub(source) and parse(source).repo == place.repo
    if os.path.lexists(folder.path) and not same:
        raise UsageError(f"{folder.path} is there already, and is another model", "choose another name with --as")
