"""Files that somebody else may have made: a pipe is never waited for, nothing is larger than it should be."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, MachineError

if TYPE_CHECKING:
    from PIL import Image

_LARGEST = 256 << 20  # bytes of a text file: ten million rows of metrics
_MOST_PIXELS = 64_000_000
_ENOUGH_FILES = 8192  # to have open at once; macOS begins with 256, and refuses "any number"
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_FORMATS = ("PNG", "GIF")  # what ditkit writes; others may start programs, as EPS does


class NotRegularError(OSError):
    """What is there is a folder, a pipe or a device."""


def open_regular(path: Path, *, follow_links: bool = True) -> BufferedReader:
    """Open a regular file and nothing else: opening a pipe would wait for a writer.

    Raises OSError, and MachineError where the machine cannot open any more.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with blaming_the_machine(path):
        descriptor = os.open(path, flags | (0 if follow_links else getattr(os, "O_NOFOLLOW", 0)))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise NotRegularError(errno.EINVAL, "it is not a file", str(path))


@contextmanager
def blaming_the_machine(path: Path) -> Iterator[None]:
    """Raise MachineError where a file cannot be opened because too many are, or memory is short: it may be whole."""
    try:
        yield
    except OSError as error:
        if error.errno not in _EXHAUSTED:
            raise
        hint = "allow this program more open files (`ulimit -n 8192`), or close others, then run again"
        raise MachineError(f"cannot open {path}: {error.strerror or error}", hint) from None


@cache
def most_open_files() -> int:
    """How many files this process may have open at once; where the system allows more when asked, it is asked."""
    try:
        import resource
    except ImportError:  # Windows, whose limit is far away
        return _ENOUGH_FILES
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    wanted = _ENOUGH_FILES if most == endless else min(most, _ENOUGH_FILES)
    if allowed != endless and allowed < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            return wanted
    return _ENOUGH_FILES if allowed == endless else allowed


def read_regular(path: Path, most: int = _LARGEST) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises OSError."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
        return file.read(most)


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises OSError, and ValueError for what is not JSON."""
    try:
        return json.loads(read_regular(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def open_picture(path: Path) -> Image.Image:
    """An RGB picture that ditkit has drawn, PNG or GIF. Raises DataError for anything else, and for a damaged one."""
    from PIL import Image

    try:
        with open_regular(path) as file, Image.open(file, formats=_FORMATS) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise ValueError(f"it has {picture.width}x{picture.height} pixels")
            return picture.convert("RGB")
    except Exception:  # Pillow raises almost any
        raise DataError(f"{path} is damaged, or no picture of ditkit's", "delete it, or draw it again") from None
