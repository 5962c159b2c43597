"""Publish a model on the Hugging Face hub, with a README, figures and samples, and fetch those of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..io import text
from ..io.text import format_size
from . import complete, console
from .import_export import DTYPE
from .opt import examples, only, opt
from .options import MODEL, Output

if TYPE_CHECKING:
    from ..interop.push import Upload

EXAMPLES = (
    "Examples:\n\nditkit hub push mnist me/digits\nditkit hub pull someone/digits --as digits\n"
    "ditkit sample --model hf://someone/digits"
)


@dataclass(frozen=True, kw_only=True)
class Upward:
    """Output: what goes where."""

    model: str | None = opt(
        "MODEL",
        "A run by name or folder, a checkpoint folder, or a .safetensors file.",
        complete=complete.run_names,
        shown=False,
    )
    repo: str | None = opt("REPO", "user/name on the hub; made where it is missing.", shown=False)
    private: bool = opt("--private", "Only you see a repository that is made.")
    message: str | None = opt("--message TEXT", "Of the commit.", shown="the step")
    dtype: str = DTYPE
    data_licence: str | None = opt(
        "--data-licence TEXT",
        "Under which licence the images are that it was trained on.",
        shown="as far as it is known",
        panel=MODEL,
    )


@dataclass(frozen=True, kw_only=True)
class PushOutput(Output):
    """Output."""

    dry_run: bool = opt("--dry-run", "Say what would be pushed, print the README, do not ask.")


@examples(
    "ditkit hub push mnist me/digits",
    "ditkit hub push mnist me/digits --dry-run",
    'ditkit hub push pets me/pets --private --dtype float16 --data-licence "CC BY 4.0, photos by me"',
)
def push_(what: Upward, output: Annotated[PushOutput, only("yes dry_run runs_dir quiet")]) -> None:
    """Publish a model: EMA weights, settings, losses, the newest sample grid, and a model card.

    The README says what was trained on what. No folder or file name of this machine is in what goes out. It is one
    commit: all arrives, or nothing.
    """
    from ..errors import UsageError
    from ..interop.push import check, push
    from ..runs.lookup import find_weights
    from .sample_request import warn_of_damage

    if what.model is None or what.repo is None:
        raise UsageError("missing arguments: what to push, and where to", "e.g. `ditkit hub push mnist user/name`")
    name = check(what.repo, message=what.message, dtype=what.dtype, data_licence=what.data_licence)
    weights = find_weights(what.model, output.runs, on_damage=warn_of_damage)
    console.hush_matplotlib()
    if output.dry_run:
        _show(weights, name, what, quiet=output.quiet)
        return
    upload = push(
        weights,
        name,
        private=what.private,
        message=what.message,
        dtype=what.dtype,
        data_licence=what.data_licence,
        confirm=lambda upload: _agreed(upload, output),
        bars=console.stderr().is_terminal and not output.quiet,
        progress=console.watch(quiet=output.quiet),
    )
    if upload.changed is None:
        return
    if not upload.changed:
        console.say("all of it is there already", quiet=output.quiet)
    console.say(f"draw with `ditkit sample --model hf://{name}`", quiet=output.quiet)
    if not output.quiet:
        console.data(upload.to.page)


def _show(weights: Path, name: str, what: Upward, *, quiet: bool) -> None:
    """What would go to the hub, and the README on stdout."""
    from ..interop.pack import preview

    progress = console.watch(quiet=quiet)
    files, readme = preview(weights, name, dtype=what.dtype, data_licence=what.data_licence, progress=progress)
    for line in (f"would upload {_total(files)}, to hf://{name}:", *_lines(files)):
        console.say(line, quiet=quiet)
    console.data(readme)


def _agreed(upload: Upload, output: Output) -> bool:
    """Whether the user wants it to be uploaded, and a line about what happens then."""
    what = f"{_total(upload.files)}, to the {'private' if upload.private else 'public'} repository {upload.to.page}"
    if not upload.to.is_there:
        what += ", which is new"
    agreed = console.agreed(f"upload {what}?", yes=output.yes, about=_lines(upload.files))
    console.say(f"uploading {what}" if agreed else "nothing is uploaded", quiet=output.quiet)
    return agreed


def _lines(files: dict[str, int]) -> list[str]:
    return [f"  {name}  {format_size(size)}" for name, size in files.items()]


def _total(files: dict[str, int]) -> str:
    return f"{text.plural(len(files), 'file')}, {format_size(sum(files.values()))}"


@dataclass(frozen=True, kw_only=True)
class Download:
    """Output: what comes in, and what it is called."""

    repo: str | None = opt(
        "REPO[@REVISION]", "user/name on the hub, optionally at a commit, tag or branch.", shown=False
    )
    name: str | None = opt("--as NAME", "What it is called here.", shown="the repository's")


@examples("ditkit hub pull someone/digits", "ditkit hub pull someone/digits@v2 --as digits-2")
def pull_(what: Download, output: Annotated[Output, only("yes runs_dir quiet")]) -> None:
    """Fetch a model of ditkit's, checked, so that `sample`, `make-gif` and `plot-loss` take it by its name.

    Pulled again, it becomes what the repository has by then.
    """
    from ..errors import UsageError
    from ..interop.import_model import pull
    from .datasets import watching

    if what.repo is None:
        raise UsageError("missing argument: what to pull", "e.g. `ditkit hub pull someone/digits`")
    with watching(quiet=output.quiet, yes=output.yes):
        progress = console.watch(quiet=output.quiet)
        folder, info = pull(what.repo, name=what.name, runs_dir=output.runs_dir, progress=progress)
    console.say(f"step {info.step:,}, {text.plural(len(info.labels), 'label')}", quiet=output.quiet)
    word = text.shell_words(str(folder) if output.runs_dir is not None else folder.name)
    console.say(f"draw with `ditkit sample --model {word}`", quiet=output.quiet)
    if not output.quiet:
        console.data(str(folder))


COMMANDS = {"push": push_, "pull": pull_}
