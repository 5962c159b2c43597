"""Where ditkit keeps what it can fetch or unpack again, and how processes take turns there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from . import durable
from .errors import MachineError, UsageError

NO_ROOM = "free some space there, or name another folder with the environment variable DITKIT_CACHE"
_LOOK_AGAIN = 0.1  # seconds
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_threads = threading.RLock()  # a file's lock belongs to the process, so it does not keep threads apart


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


def as_text(word: str) -> str:
    """A name or a typed word as Unicode; under LC_ALL=C Python gives its bytes beyond ASCII as lone surrogates."""
    return word.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def spelled(path: Path) -> str:
    """The path as settings keep it. Raises UsageError for a name that is no text."""
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"the name of {path} is not UTF-8", "rename it") from None


def cache_folder(name: str) -> Path:
    """A folder in the cache that can be written to, made where it is missing. Raises MachineError if it cannot be."""
    folder = cache_dir() / name
    try:
        durable.make_folder(folder)
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


@contextlib.contextmanager
def alone(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Whoever makes `path` holds this: one thread of one process, others wait. It ends with the process.

    Gives whether it is held: not if somebody else does and `wait` is off, nor on a file system that has no locks.
    """
    with _threads:
        lock = path.with_name(f".{path.name[:200]}.lock")
        descriptor, held = _open_locked(lock)
        try:
            while descriptor is None and wait:
                time.sleep(_LOOK_AGAIN)
                descriptor, held = _open_locked(lock)
            yield held
        finally:
            if held and os.name != "nt":
                with contextlib.suppress(OSError):
                    lock.unlink()
            if descriptor is not None:
                os.close(descriptor)


def _open_locked(lock: Path) -> tuple[int | None, bool]:
    """A descriptor, and whether it holds the lock; none if somebody else does."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    held = try_lock(descriptor)
    with contextlib.suppress(FileNotFoundError):
        if held is None or (held and os.path.samestat(os.fstat(descriptor), lock.stat())):
            return descriptor, bool(held)
    os.close(descriptor)  # held by another, or its last holder has just removed it
    return None, False


def try_lock(descriptor: int) -> bool | None:
    """Whether the file's lock was got, which goes with the process; None where the file system has none."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            import fcntl

            # lockf, not flock: worker processes inherit flock's lock and outlive a killed parent
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _BUSY else None
    return True
