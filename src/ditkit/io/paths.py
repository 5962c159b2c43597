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
from ..runtime import launch
from . import atomic
from .text import free_name

_OF_FILES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".json", ".md", ".npz", ".csv", ".txt", ".zip", ".safetensors")
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


def claim(path: Path, *, folder: bool = False) -> Path:
    """Make an empty file or folder for results that come later: no other process gets that name.

    It goes again if nothing is written there. Raises FileExistsError if it is there, unless this process claimed it.
    """
    if path not in _claimed or not is_empty(path):
        missing = [above for above in path.parents if not above.exists()]
        atomic.make_folder(path.parent)
        if folder:
            path.mkdir()
        else:
            path.touch(exist_ok=False)
        _claimed.extend([path, *missing])
    return path


def claim_free(path: Path, ending: str = "", *, folder: bool = False) -> Path:
    """`claim` of the next free name: `path`, `path-2` …, with its ending."""
    while True:
        free = free_name(path, ending)
        try:
            return claim(free, folder=folder)
        except FileExistsError as error:
            # Another process has just taken that name; but where a folder above is a file, no name is free.
            if str(error.filename) != str(free):
                raise


def is_empty(path: Path) -> bool:
    """Whether a file or folder is there, with nothing in it; what a link leads to does not count."""
    if path.is_symlink() or not path.exists():
        return False
    return not any(path.iterdir()) if path.is_dir() else not path.stat().st_size


def release_unused() -> None:
    """Remove what was claimed and is still empty. Called when a command ends, and when the process does."""
    while _claimed:
        path = _claimed.pop(0)
        with contextlib.suppress(OSError):
            if is_empty(path):
                path.rmdir() if path.is_dir() else path.unlink()


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


def check_folder_name(path: Path) -> None:
    """Raise UsageError for a folder to be made that is called like a file of results."""
    if path.suffix.lower() in _OF_FILES and not path.exists():
        raise UsageError(f"--out: {path} would be a folder, and is called like a file", f"e.g. --out {path.stem}")


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


def check_file(path: Path, *, force: bool | None, option: str = "--out", folder: bool = False) -> None:
    """Raise DitkitError when a file (or folder) cannot be written there, or would overwrite another without --force.

    Without `force`, which is None where the command has no --force, the name is claimed: no other process gets it.
    """
    check_writable(path.parent)
    if force or not launch.is_main():
        return
    try:
        claim(path, folder=folder)
    except FileExistsError:
        overwrite = "remove it" if force is None else "overwrite it with --force"
        raise UsageError(f"{path} is there already", f"{overwrite}, or choose another name with {option}") from None
