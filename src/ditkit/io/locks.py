"""File locks: one writer per run and per cache entry."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_RETRY_AFTER = 0.1  # seconds
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_LOCKED_BYTE = 1 << 30  # on Windows, where others cannot read what is locked: far behind the content of any such file
_threads = threading.RLock()  # a file's lock belongs to the process, so it does not keep threads apart


@contextlib.contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """A lock for making `path`: one thread of one process holds it, others wait. It ends with the process.

    Gives whether it is held: not if another process holds it and `wait` is off, nor on a file system without locks.
    """
    with _threads:
        lock = path.with_name(f".{path.name[:200]}.lock")
        descriptor, held = _open_locked(lock)
        try:
            while descriptor is None and wait:
                time.sleep(_RETRY_AFTER)
                descriptor, held = _open_locked(lock)
            yield held
        finally:
            if held and os.name != "nt":
                with contextlib.suppress(OSError):
                    lock.unlink()
            if descriptor is not None:
                os.close(descriptor)


def _open_locked(lock: Path) -> tuple[int | None, bool]:
    """A descriptor, and whether it holds the lock; no descriptor if another process holds it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    held = try_lock(descriptor)
    with contextlib.suppress(FileNotFoundError):
        if held is None or (held and os.path.samestat(os.fstat(descriptor), lock.stat())):
            return descriptor, bool(held)
    os.close(descriptor)  # held by another, or its last holder has just removed it
    return None, False


def try_lock(descriptor: int) -> bool | None:
    """Whether this process now holds the file's lock, until it ends; None where the file system has no locks."""
    try:
        if os.name == "nt":
            _lock_byte(descriptor)
        else:
            import fcntl

            # lockf, not flock: worker processes inherit flock's lock and outlive a killed parent
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _BUSY else None
    return True


def _lock_byte(descriptor: int) -> None:
    """Lock the same byte whatever the position of the file, which Windows locks from."""
    import msvcrt

    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)


_read: dict[Path, int] = {}  # folders that this process reads, and keeps others from removing: their descriptors


def keep_for_reading(folder: Path) -> bool:
    """Keep `in_use_by_a_reader` true for a folder, in other processes, until `done_reading`; false if it is gone.

    flock, which belongs to the descriptor: a lock of lockf would end as soon as any file of the folder is closed.
    """
    if os.name == "nt":  # refuses to rename what is open
        return folder.is_dir()
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # of a pipe it would wait for a writer
    except (FileNotFoundError, NotADirectoryError):
        return False
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    done_reading(folder)
    _read[folder.resolve()] = descriptor
    return folder.is_dir()  # else it was renamed, to be removed, before it was locked


def done_reading(folder: Path) -> None:
    """Let a folder be removed again."""
    descriptor = _read.pop(folder.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def in_use_by_a_reader(folder: Path) -> bool:
    """Whether another process reads a folder at this moment."""
    if os.name == "nt":
        return False
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _BUSY
    finally:
        os.close(descriptor)
    return False
