"""`ditkit hub push`: a model as a repository on the hub, in one commit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..interop.export import DTYPES
from . import complete, console
from .annotated import MODEL, OUTPUT, Debug, Quiet, RunsDir, Yes
from .export import Dtype

if TYPE_CHECKING:
    from ..interop.push import Destination


EXAMPLES = (
    "Examples:\n\nditkit hub push mnist me/digits\nditkit hub push mnist me/digits --dry-run\n"
    "ditkit hub push pets me/pets --private --dtype float16 --data-licence 'CC BY 4.0, photos by me'"
)

Which = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete.run_names,
        show_default=False,
        help="A run by name or folder, a checkpoint folder, or a .safetensors file.",
    ),
]
Where = Annotated[
    str | None,
    typer.Argument(metavar="REPO", show_default=False, help="user/name on the hub; made where it is missing."),
]
Private = Annotated[
    bool, typer.Option("--private", help="Only you see a repository that is made.", rich_help_panel=OUTPUT)
]
Message = Annotated[
    str | None,
    typer.Option("--message", metavar="TEXT", show_default="the step", help="Of the commit.", rich_help_panel=OUTPUT),
]
DataLicence = Annotated[
    str | None,
    typer.Option(
        "--data-licence",
        metavar="TEXT",
        show_default="as far as it is known",
        help="Under which licence the images are that it was trained on.",
        rich_help_panel=MODEL,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what would go there, print the README, ask nobody.", rich_help_panel=OUTPUT),
]


def run(
    model: Which = None,
    repo: Where = None,
    private: Private = False,
    message: Message = None,
    dtype: Dtype = "float32",
    data_licence: DataLicence = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    runs_dir: RunsDir = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Publish a model: EMA weights, settings, losses, the newest sample grid, and a model card.

    The README says what was trained on what. No folder or file name of this machine is in what goes out. It is one
    commit: all arrives, or nothing.
    """
    from ..errors import UsageError, unknown
    from ..interop.push import destination_name
    from ..interop.readme import check_licence
    from ..runs.folder import runs_dir as runs_place
    from ..runs.lookup import find_weights
    from ..runs.model_info import read_model_info
    from .sample_request import warn_of_damage

    if model is None or repo is None:
        raise UsageError("push what, and where to?", "e.g. `ditkit hub push mnist user/name`")
    name = destination_name(repo)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    check_licence(data_licence)
    if message is not None and not message.strip():
        raise UsageError("--message: an empty one says nothing", "leave it out")
    weights = find_weights(model, runs_place(runs_dir), on_damage=warn_of_damage)
    step = read_model_info(weights).step
    to = None if dry_run else _destination(name, private=private, quiet=quiet)
    with tempfile.TemporaryDirectory(prefix="ditkit-push-") as place:
        folder = Path(place)
        with console.loading_torch(quiet=quiet):
            console.hush_matplotlib()
            from ..interop.push import collect_files
        with console.spinner("packing …", quiet=quiet):
            collect_files(weights, folder, repo=name, dtype=dtype, data_licence=data_licence)
        if to is None:
            _show(name, folder, quiet=quiet)
        else:
            _send(to, folder, private=private, message=message or f"Step {step:,}", yes=yes, quiet=quiet)


def _destination(name: str, *, private: bool, quiet: bool) -> Destination:
    """What is there already. Raises DitkitError where this user can write nothing to it, as far as that shows."""
    from ..errors import UsageError
    from ..interop.push import check_allowed, look_up

    check_allowed(name)
    with console.spinner("asking the hub …", quiet=quiet):
        to = look_up(name)
    if private and to.is_there and not to.private:
        raise UsageError(f"hf://{name} is there already, and public", "choose another name, or make it private there")
    return to


def _listed(folder: Path) -> dict[str, int]:
    """The files that go out, in the order of their listing, and their sizes in bytes."""
    from ..interop.push import FILES

    return {name: (folder / name).stat().st_size for name in FILES if (folder / name).is_file()}


def _lines(files: dict[str, int]) -> list[str]:
    from ..io import text

    return [f"  {name}  {text.format_size(size)}" for name, size in files.items()]


def _total(files: dict[str, int]) -> str:
    from ..io import text

    return f"{len(files)} files, {text.format_size(sum(files.values()))}"


def _show(name: str, folder: Path, *, quiet: bool) -> None:
    files = _listed(folder)
    for line in (f"would upload {_total(files)}, to hf://{name}:", *_lines(files)):
        console.say(line, quiet=quiet)
    console.data((folder / "README.md").read_text(encoding="utf-8"))


def _send(to: Destination, folder: Path, *, private: bool, message: str, yes: bool, quiet: bool) -> None:
    from ..interop.push import FILES, upload, without_bars

    files = _listed(folder)
    seen = "private" if (to.private if to.is_there else private) else "public"
    what = f"{_total(files)}, to the {seen} repository {to.page}"
    if not to.is_there:
        what += ", which is new"
    if not console.agreed(f"upload {what}?", yes=yes, about=_lines(files)):
        console.say("nothing is uploaded", quiet=quiet)
        return
    console.say(f"uploading {what}", quiet=quiet)
    gone = (to.files & set(FILES)) - set(files)  # of an earlier push
    with without_bars(quiet or not console.stderr().is_terminal):
        changed = upload(to, folder, files, gone=gone, private=private, message=message)
    if not changed:
        console.say("all of it is there already", quiet=quiet)
    console.say(f"draw with `ditkit sample --model hf://{to.repo}`", quiet=quiet)
    if not quiet:
        console.data(to.page)
