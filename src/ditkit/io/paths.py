"""User paths, the cache folder, free disk space."""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

from ..errors import MachineError, UsageError
from . import atomic


def check_space(place: Path, needed: int, what: str) -> None:
    """Raise MachineError unless `place`, or the folder that it will be made in, has `needed` bytes free."""
    existing = next(one for one in (place, *place.absolute().parents) if one.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise MachineError(
            f"{existing} has {free / 1e6:,.0f} MB free, but {what} {math.ceil(needed / 1e6):,} MB",
            "free some space, then run the same command again; or choose another --runs-dir",
        )


NO_ROOM = "free some space there, or name another folder with the environment variable DITKIT_CACHE"


def cache_dir() -> Path:
    """DITKIT_CACHE, else the system's place for caches; nothing is created by asking."""
    given = os.environ.get("DITKIT_CACHE")
    if given:
        return expanded(given).absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("ditkit", appauthor=False))


def expanded(path: str | Path) -> Path:
    """The path with `~` spelled out; left as it is where nobody knows that home.

    It may come from settings, which are Unicode, while the system calls files by bytes (LC_ALL=C).
    """
    text = os.path.expanduser(path)  # noqa: PTH111
    if sys.getfilesystemencoding() == "utf-8":
        return Path(text)
    return Path(os.fsdecode(os.fspath(text).encode("utf-8", "surrogateescape")))


def as_stored(path: Path) -> str:
    """The path as settings keep it. Raises UsageError for a name that is no text."""
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"the name of {path} is not UTF-8", "rename it") from None


def cache_folder(name: str) -> Path:
    """A folder in the cache that can be written to, made where it is missing. Raises MachineError if it cannot be."""
    folder = cache_dir() / name
    try:
        atomic.make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise MachineError(
            f"cannot write to the cache {folder}: {error.strerror}",
            "name a folder for it with the environment variable DITKIT_CACHE",
        ) from None


def check_room(what: object, folder: Path, needed: float) -> None:
    """Raises MachineError if a folder in the cache has not so many bytes left."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise MachineError(
            f"{what} needs {needed / 1e6:,.0f} MB in {folder}, where {free / 1e6:,.0f} MB are free", NO_ROOM
        )


def check_writable(folder: Path) -> None:
    """Raise UsageError or MachineError, before the work, when files could not be written to a folder after it."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise UsageError(f"--out: {existing} is a file", "name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise MachineError(f"cannot write to {existing}", "choose another place with --out")


def check_file(path: Path, *, force: bool) -> None:
    """Raise DitkitError when a file cannot be written there, or would overwrite another without --force."""
    check_writable(path.parent)
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} is there already", "overwrite it with --force, or choose another name with --out")


def free_disk(place: Path) -> int | None:
    """Bytes free where a folder is, or will be made; None where nobody says."""
    import shutil

    existing = next(one for one in (place.absolute(), *place.absolute().parents) if one.exists())
    try:
        return shutil.disk_usage(existing).free
    except OSError:
        return None
