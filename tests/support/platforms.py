"""Stand-ins for other systems in one process: the names and locks of Windows, as far as its documentation says so.

They show that a module takes the way that is meant for Windows; `tests/portability` plays more of it, in a process of
its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import types
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _WindowsOs:
    """The module os, called `nt` and without what Windows has not; what is patched in os is patched here, too."""

    name = "nt"
    _missing = ("fork", "getloadavg", "getuid", "mkfifo", "pread", "sched_getaffinity", "sysconf", "O_DIRECTORY")

    def __getattr__(self, name: str) -> Any:
        if name in self._missing:
            raise AttributeError(f"module 'os' has no attribute {name!r} on Windows")
        return getattr(os, name)


class FakeMsvcrt(types.ModuleType):
    """Locks of bytes as Windows has them: at the position of the file, of one descriptor, and mandatory.

    A second descriptor is refused also in the same process, so that two holders can be played in one.
    """

    LK_UNLCK, LK_LOCK, LK_NBLCK = 0, 1, 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.held: dict[tuple[int, int, int], int] = {}  # device, inode and byte: the descriptor

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        status, begin = os.fstat(descriptor), os.lseek(descriptor, 0, os.SEEK_CUR)
        places = [(status.st_dev, status.st_ino, begin + number) for number in range(count)]
        if mode == self.LK_UNLCK:
            for place in places:
                del self.held[place]
            return
        for place in places:
            holder = self.held.get(place)
            if holder is not None and holder != descriptor and _is_open(holder, place[:2]):
                raise PermissionError(errno.EACCES, "Permission denied")
            self.held[place] = descriptor

    def locked_bytes(self, size: int) -> list[int]:
        """Locked bytes below `size`, which nobody else could read."""
        return [byte for (*_, byte), holder in self.held.items() if byte < size and _is_open(holder)]


def _is_open(descriptor: int, file: tuple[int, int] | None = None) -> bool:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return file is None or (status.st_dev, status.st_ino) == file


def as_windows(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> FakeMsvcrt:
    """Let some modules of ditkit believe that they are on Windows; returns the msvcrt that they import."""
    msvcrt = FakeMsvcrt()
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "resource", None)
    for module in modules:
        monkeypatch.setattr(module, "os", _WindowsOs())
    return msvcrt


def open_files() -> list[str]:
    """The paths of the files that this process has open (Linux)."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own is closed by now
            names.append(str(link.readlink()))
    return names


class NoFloat64(TorchDispatchMode):
    """What MPS, which has no float64, refuses: the device meta stands for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta and tensor.dtype == torch.float64:
                raise TypeError(f"Cannot convert a MPS Tensor to float64 dtype, in {func}")
        return result
