"""User paths, the cache folder, free disk space."""

from __future__ import annotations

import atexit
import contextlib
import difflib
import math
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from ..errors import MachineError, UsageError
from . import atomic
from .text import free_name

NO_ROOM = "free some space there, or name another folder with the environment variable DITKIT_CACHE"


def cache_dir() -> Path:
    """DITKIT_CACHE, else the system's place for caches; it is not created."""
    folder = os.environ.get("DITKIT_CACHE")
    if folder:
        return expanded(folder).absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("ditkit", appauthor=False))


def expanded(path: str | Path) -> Path:
    """The path with `~` replaced by the home folder; unchanged for an unknown user's home.

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


def private_folder(name: str) -> Path:
    """A folder in the cache that this user alone can write to and read, for what is executed when it is opened.

    Raises MachineError if it cannot be made, or is another user's.
    """
    folder = cache_folder(name)
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
        raise MachineError(
            f"{folder} is another user's, who could put code there", "name a cache of your own with DITKIT_CACHE"
        )
    folder.chmod(0o700)
    return folder


def resolved(path: Path) -> Path:
    """A file's path without links in its folders; of a file that is a link, as in the hub's cache, the name stays."""
    return path.parent.resolve() / path.name


def make_free_folder(path: Path) -> Path:
    """A new, empty folder at `path`, or at the next free `path-2`, `path-3` …; never one that another process has.

    Raises OSError.
    """
    atomic.make_folder(path.parent)
    while True:
        folder = free_name(path)
        try:
            folder.mkdir()
        except FileExistsError:  # another process has just taken that name
            continue
        atomic.sync_folder(folder.parent)
        return folder


_claimed: list[Path] = []  # folders and files that were made for their names alone, so far


def claim_folder(path: Path) -> Path:
    """`make_free_folder`, for results that come later: it goes again if nothing is written into it."""
    paths = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    folder = make_free_folder(path)
    _claimed.extend([folder, *paths])
    return folder


def claim_file(path: Path, ending: str) -> Path:
    """A new, empty file of the next free name, which no other process gets; it goes again if it stays empty."""
    while True:
        file = free_name(path, ending)
        try:
            file.touch(exist_ok=False)
        except FileExistsError:
            continue
        _claimed.append(file)
        return file


def release_unused() -> None:
    """Remove what was claimed and is still empty. Called when a command ends, and when the process does."""
    while _claimed:
        path = _claimed.pop(0)
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()
            elif not path.stat().st_size:
                path.unlink()


atexit.register(release_unused)


def nearest_folder(path: Path) -> Path:
    """The path itself, or the innermost existing folder above it."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def free_disk(path: Path) -> int | None:
    """Bytes free where a folder is, or will be made; None where the system does not say."""
    try:
        return shutil.disk_usage(nearest_folder(path)).free
    except OSError:
        return None


def check_space(path: Path, needed: int, what: str) -> None:
    """Raise MachineError unless a run's folder, or the one that it will be made in, has `needed` bytes free."""
    free = free_disk(path)
    if free is not None and free < needed:
        raise MachineError(
            f"{nearest_folder(path)} has {free / 1e6:,.0f} MB free, but {what} {math.ceil(needed / 1e6):,} MB",
            "free some space, then run the same command again; or choose another --runs-dir",
        )


def check_room(what: object, folder: Path, needed: float, hint: str = NO_ROOM) -> None:
    """Raise MachineError if a folder in a cache, or the one that it will be made in, has too few bytes free."""
    free = free_disk(folder)
    if free is not None and free < needed:
        raise MachineError(
            f"{what} needs {needed / 1e6:,.0f} MB in {folder}, where {free / 1e6:,.0f} MB are free", hint
        )


def check_writable(folder: Path) -> None:
    """Raise UsageError or MachineError, before the work, when files could not be written to a folder after it."""
    existing = nearest_folder(folder)
    if not existing.is_dir():
        raise UsageError(f"--out: {existing} is a file", "name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise MachineError(f"cannot write to {existing}", "choose another place with --out")


def not_there(path: str | Path) -> str:
    """A hint for a path that does not exist: what is beside it under a similar name, or which folder is missing."""
    missing = expanded(path)
    if not missing.parent.is_dir():
        return f"check the path: there is no folder {missing.parent} either"
    try:
        names = os.listdir(missing.parent)  # noqa: PTH208
    except OSError:
        return "check the path"
    by_lower = {name.lower(): name for name in sorted(names)}
    near = difflib.get_close_matches(missing.name.lower(), by_lower, n=1, cutoff=0.7)
    return f"did you mean {_beside(path, by_lower[near[0]])!r}?" if near else "check the path"


def _beside(path: str | Path, name: str) -> str:
    """The path as it was typed, with another last name."""
    typed = os.fspath(path).rstrip("/\\" if os.name == "nt" else "/")
    return typed.removesuffix(Path(typed).name) + name


def check_file(path: Path, *, force: bool | None, option: str = "--out") -> None:
    """Raise DitkitError when a file cannot be written there, or would overwrite another without --force.

    `force` is None where the command has no --force.
    """
    check_writable(path.parent)
    if os.path.lexists(path) and not force:
        overwrite = "remove it" if force is None else "overwrite it with --force"
        raise UsageError(f"{path} is there already", f"{overwrite}, or choose another name with {option}")
