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
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            import fcntl

            # lockf, not flock: worker processes inherit flock's lock and outlive a killed parent
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _BUSY else None
    return True
