"""`ditkit data remove`: free what the cache takes of the disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ..io import text
from . import complete, console
from .annotated import DATA, Debug, Json, Quiet, Yes

if TYPE_CHECKING:
    from ..io.cache import Entry


EXAMPLES = (
    "Examples:\n\nditkit data remove extracted/photos\nditkit data remove --unfinished --yes\nditkit data remove --all"
)

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        autocompletion=complete.cached,
        show_default=False,
        help="As `ditkit data list` shows them, or their beginnings.",
    ),
]
All = Annotated[bool, typer.Option("--all", help="Everything in the cache.", rich_help_panel=DATA)]
Unfinished = Annotated[
    bool,
    typer.Option("--unfinished", help="What downloads and other work have left unfinished.", rich_help_panel=DATA),
]


def run(
    names: Names = None,
    everything: All = False,
    unfinished: Unfinished = False,
    yes: Yes = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Remove what is in the cache: downloads, unpacked archives, and whatever can be made again.

    Your own images, runs, and the data inside ditkit are not there, and stay.
    """
    from ..io import cache, text

    chosen = _chosen(names or [], cache.entries(), everything=everything, unfinished=unfinished)
    if chosen:
        with console.spinner("measuring …", quiet=quiet):
            size = text.format_size(sum(entry.size for entry in chosen))
        what = chosen[0].name if len(chosen) == 1 else f"{len(chosen)} entries of the cache"
        about = [f"  {text.flat(entry.name)}" for entry in chosen] if len(chosen) > 1 else []
        if not console.agreed(f"remove {text.flat(what)}, {size}?", yes=yes, about=about):
            console.say("nothing is removed", quiet=quiet)
            return
    _remove(chosen, as_json=as_json, quiet=quiet)


def _remove(chosen: Sequence[Entry], *, as_json: bool, quiet: bool) -> None:
    """All that can be removed; then the first error, if there was one."""
    from ..errors import DitkitError
    from ..io import cache, text

    removed: list[str] = []
    freed, errors = 0, list[DitkitError]()
    with console.spinner("removing …", quiet=quiet):
        for entry in chosen:
            try:
                freed += cache.remove(entry)
                removed.append(entry.name)
            except DitkitError as error:
                errors.append(error)
    if as_json:
        console.data(json.dumps({"removed": removed, "bytes": freed}))
    elif removed:
        what = text.flat(removed[0]) if len(removed) == 1 else f"{len(removed)} entries"
        console.say(f"removed {what}: {text.format_size(freed)} are free again", quiet=quiet)
    elif not chosen:
        console.say("there is nothing to remove", quiet=quiet)
    if errors:
        raise errors[0]


def _chosen(names: Sequence[str], entries: Sequence[Entry], *, everything: bool, unfinished: bool) -> list[Entry]:
    from ..errors import UsageError

    given = sum((bool(names), everything, unfinished))
    if given != 1:
        wrong = "names, --all and --unfinished exclude each other" if given else "remove what?"
        raise UsageError(wrong, "give names that `ditkit data list` shows, or --unfinished, or --all")
    if names:
        found = [_find(name, entries) for name in names]
        return [entry for entry in entries if entry in found]
    return [entry for entry in entries if everything or entry.unfinished]


def _find(word: str, entries: Sequence[Entry]) -> Entry:
    """The entry of a name, with its kind or without, or of the beginning of only one. Raises UsageError otherwise."""
    from ..errors import UsageError, unknown
    from ..io.text import as_text
    from ..registry import DATASETS

    word = as_text(word)
    spelled = {entry: _spellings(entry) for entry in entries}
    same = [entry for entry, own in spelled.items() if word in own]
    found = same or [entry for entry, own in spelled.items() if any(one.startswith(word) for one in own)]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(one.name for one in found[:5]) + (" …" if len(found) > 5 else "")
        raise UsageError(f"{word!r} may be any of {len(found)} entries", f"say which: {some}")
    inside = [entry.name for entry in entries if word.lower() in entry.name.lower()]
    if inside:
        raise UsageError(f"unknown entry of the cache {word!r}", f"did you mean {' or '.join(map(repr, inside[:3]))}?")
    if word == "mnist":
        raise UsageError("mnist is inside ditkit, not in the cache", "it goes with `pip uninstall ditkit`")
    if word in DATASETS.names():
        raise UsageError(f"nothing of {word!r} is in the cache", "`ditkit data list` shows what is there")
    raise unknown("entry of the cache", word, [entry.name for entry in entries])


def _spellings(entry: Entry) -> set[str]:
    """With its kind and without, as it is and as `data list` shows it."""
    from ..io.text import as_text

    plain = {as_text(entry.name), as_text(entry.path.name)}
    return plain | {text.flat(one) for one in plain}
