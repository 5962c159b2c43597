"""What is in the cache: its entries, how big they are and where they came from, and removing them.

Folders directly below the cache are kinds (downloads, extracted, hub …), and what is directly in one is an entry. The
files of an entry of the hub are in the cache that other tools share. Those that ditkit has checked count for it and are
removed with it. What a stopped download has left there is an unfinished entry.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import BusyError, DitkitError, MachineError, UsageError, unknown
from . import atomic, snapshot, text
from .locks import exclusive
from .paths import cache_dir
from .shared import remove_files

_OTHER_PLACE = "name another folder for it with the environment variable DITKIT_CACHE"
_LONGEST_NOTE = 1 << 24  # bytes
_LONGEST_NAME = 60  # letters, of a column
_NOTES = (("COMPLETE.json", ("source", "place")), ("about.json", ("source",)))
_PART = re.compile(r"(.+?)(\.[0-9a-f]{8})?\.part(\.json)?", re.DOTALL)
_BEGUN = re.compile(r"\.(?:tmp|trash)-(([a-z]+-)?(.+))-[0-9a-f]{8}", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing in the cache: a file or a folder that is whole, or what an unfinished work has left."""

    kind: str
    path: Path
    unfinished: bool

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.path.name}"

    @property
    def files(self) -> list[Path]:
        """What goes when the entry goes; of a part, the note about it first, without which the part is nothing."""
        note = self.path.with_name(f"{self.path.name}.json")
        return [note, self.path] if self.path.name.endswith(".part") and os.path.lexists(note) else [self.path]

    @property
    def shared(self) -> Path | None:
        """The folder in the cache of the hub, which other tools share, that has its files."""
        return self._shared[0] if self._shared else None

    @cached_property
    def _shared(self) -> tuple[Path, list[Path]] | None:
        return None if self.kind != "hub" or self.path.is_symlink() else snapshot.shared_files(self.path)

    @property
    def size(self) -> int:
        """Bytes in all its files; links count as themselves, but for those of the hub's cache."""
        linked = self._shared[1] if self._shared else []
        return sum(map(_size, self.files)) + sum(_size(path.resolve()) for path in linked)

    @property
    def modified(self) -> float:
        """When it was last written, in seconds since 1970; 0 if it has just gone."""
        try:
            return self.path.lstat().st_mtime
        except OSError:
            return 0.0

    @property
    def source(self) -> str | None:
        """Where it came from, as far as it says so."""
        if self.path.is_symlink():
            return None
        if self.path.name.endswith(".part"):
            return _noted(self.path.with_name(f"{self.path.name}.json"), ("url",))
        sources = (_noted(self.path / name, keys) for name, keys in _NOTES)
        return next((source for source in sources if source), None)

    @property
    def record(self) -> dict[str, Any]:
        """All about it as plain data."""
        return {
            "name": self.name,
            "path": str(self.path),
            "bytes": self.size,
            "modified": self.modified,
            "source": self.source,
            "unfinished": self.unfinished,
            **({"shared": str(self.shared)} if self.shared else {}),
        }


def entries() -> list[Entry]:
    """Everything in the cache, by kind and name. Raises MachineError for a cache that cannot be read."""
    entries = []
    for kind in _names(cache_dir()):
        folder = cache_dir() / kind
        if kind.startswith(".") or folder.is_symlink() or not folder.is_dir():
            continue
        names = _names(folder)
        for name in names:
            unfinished = _is_unfinished(name) or _noted(folder / name / "about.json", ("unfinished",)) is not None
            noted = name.endswith(".part.json") and name.removesuffix(".json") in names
            if not noted and (unfinished or not name.startswith(".")):
                entries.append(Entry(kind=kind, path=folder / name, unfinished=unfinished))
    return entries + [Entry(kind="hub", path=path, unfinished=True) for path in snapshot.leftovers()]


def lines(records: Sequence[Mapping[str, Any]], total: int) -> Iterator[str]:
    """The records of entries, and their bytes in all, for people."""
    yield f"\nin the cache, {text.flat(str(cache_dir()))}:"
    if not records:
        yield "  nothing"
        return
    names = [text.flat(entry["name"]) for entry in records]
    width = min(_LONGEST_NAME, max(map(len, names)))
    for name, entry in zip(names, records, strict=True):
        age = text.format_age(time.time() - entry["modified"])
        note = "  unfinished" if entry["unfinished"] else ""
        yield f"  {name:<{width}}  {text.format_size(entry['bytes']):>9}  {age:>8}{note}"
        if entry["source"]:
            shared = f", in {text.flat(entry['shared'])}, which other tools share" if "shared" in entry else ""
            yield f"    from {text.flat(entry['source'])}{shared}"
    unfinished = [entry["bytes"] for entry in records if entry["unfinished"]]
    part = f", {text.format_size(sum(unfinished))} of it unfinished" if unfinished else ""
    yield f"  {text.format_size(total)} in all{part}"


def links() -> list[Path]:
    """Folders of the cache that are links: what they lead to is left alone."""
    return [path for name in _names(cache_dir()) if (path := cache_dir() / name).is_symlink() and path.is_dir()]


def find(word: str, entries: Sequence[Entry]) -> Entry:
    """The entry of a name, with its kind or without, or of the beginning of only one. Raises UsageError otherwise."""
    from ..registry import DATASETS

    word = text.as_text(word)
    spellings = {entry: _spellings(entry) for entry in entries}
    same = [entry for entry, names in spellings.items() if word in names]
    matching = same or [entry for entry in entries if any(name.startswith(word) for name in spellings[entry])]
    if len(matching) == 1:
        return matching[0]
    if matching:
        some = ", ".join(entry.name for entry in matching[:5]) + (" …" if len(matching) > 5 else "")
        raise UsageError(f"{word!r} may be any of {len(matching)} entries", f"say which: {some}")
    similar = [entry.name for entry in entries if word.lower() in entry.name.lower()][:3]
    if similar:
        raise UsageError(f"unknown entry of the cache {word!r}", f"did you mean {' or '.join(map(repr, similar))}?")
    if word == "mnist":
        raise UsageError("mnist is inside ditkit, not in the cache", "it goes with `pip uninstall ditkit`")
    if word in DATASETS.names():
        raise UsageError(f"nothing of {word!r} is in the cache", "`ditkit data list` shows what is there")
    raise unknown("entry of the cache", word, [entry.name for entry in entries])


def choose(
    entries: Sequence[Entry], names: Sequence[str], *, everything: bool = False, unfinished: bool = False
) -> list[Entry]:
    """Those of the entries that are named, or are unfinished, or everything but what other tools share.

    Raises UsageError for a name that none or several have, and unless it is asked in exactly one of these ways.
    """
    ways = sum((bool(names), everything, unfinished))
    if ways != 1:
        wrong = "names, --all and --unfinished exclude each other" if ways else "missing argument: what to remove"
        raise UsageError(wrong, "give names that `ditkit data list` shows, or --unfinished, or --all")
    if names:
        named = [find(name, entries) for name in names]
        return [entry for entry in entries if entry in named]
    return [entry for entry in entries if (everything and not entry.shared) or entry.unfinished]


def _spellings(entry: Entry) -> set[str]:
    """Its name with its kind and without, as it is and as `data list` shows it."""
    plain = {text.as_text(entry.name), text.as_text(entry.path.name)}
    return plain | {text.flat(name) for name in plain}


def remove(entry: Entry) -> int:
    """Delete an entry; returns how many bytes it had. A kill on the way leaves it whole, or as something unfinished.

    Raises BusyError if another process makes it at the moment, MachineError if the system refuses.
    """
    size = entry.size
    with contextlib.ExitStack() as stack:
        try:
            for owner in _owners(entry.path.name):
                if not stack.enter_context(exclusive(entry.path.with_name(owner), wait=False)):
                    raise BusyError(f"{entry.name} is in use", f"wait until that has ended, or delete {entry.path}")
            if entry.shared and (shared := snapshot.shared_files(entry.path)):
                size -= remove_files(*shared)
            for path in entry.files:
                trash = path.with_name(f".trash-{secrets.token_hex(4)}")
                with contextlib.suppress(FileNotFoundError):  # somebody else was faster
                    atomic.rename(path, trash)
                    _delete(trash)
        except OSError as error:
            raise MachineError(
                f"cannot remove {entry.name}: {error.filename or entry.path}: {error.strerror or error}",
                f"check its permissions, or delete {entry.path} yourself",
            ) from None
    return size


def remove_all(entries: Sequence[Entry]) -> tuple[list[str], int, list[DitkitError]]:
    """Delete all entries that can be deleted; returns their names, how many bytes they had, and the errors."""
    removed: list[str] = []
    freed, errors = 0, list[DitkitError]()
    for entry in entries:
        try:
            freed += remove(entry)
            removed.append(entry.name)
        except DitkitError as error:
            errors.append(error)
    return removed, freed, errors


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)  # which follows no links
    else:
        path.unlink()


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder), key=os.fsencode)  # noqa: PTH208
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise MachineError(f"the cache {folder} is a file", _OTHER_PLACE) from None
    except OSError as error:
        raise MachineError(f"cannot read the cache {folder}: {error.strerror}", _OTHER_PLACE) from None


def _is_unfinished(name: str) -> bool:
    return name.startswith((".tmp-", ".trash-")) or name.endswith((".part", ".part.json")) or _is_leftover(name)


def _is_leftover(name: str) -> bool:
    return atomic.is_leftover(Path(name))


def _owners(name: str) -> list[str]:
    """Names whose lock the maker of a file or folder holds: its own, or that of what it was to become."""
    if part := _PART.fullmatch(name):
        return [part[1]]
    if begun := _BEGUN.fullmatch(name):  # `.tmp-unpack-photos-0123abcd`: of photos, or of unpack-photos
        return list(dict.fromkeys([begun[1], begun[3]]))
    return [name[1:].rpartition(".tmp")[0].rpartition(".")[0] if _is_leftover(name) else name]


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what goes in the meantime counts nothing."""
    try:
        if path.is_symlink() or not path.is_dir():
            return path.lstat().st_size
    except OSError:
        return 0
    return sum(_sizes(path))


def _sizes(folder: Path) -> Iterator[int]:
    waiting = [os.fspath(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        yield entry.stat(follow_symlinks=False).st_size


def _noted(path: Path, keys: tuple[str, ...]) -> str | None:
    """A text in a JSON note, if it is there and a text."""
    try:
        if path.is_symlink() or path.stat().st_size > _LONGEST_NOTE:
            return None
        value: Any = json.loads(path.read_bytes())
        for key in keys:
            value = value[key]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return value if isinstance(value, str) and value.strip() else None
