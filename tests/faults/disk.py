"""Watching every call that changes the file system: to count them, to make one fail, to know what a disk has kept.

`Watch` replaces attributes of `os`, so it sees what ditkit, pathlib and shutil do through them. Of files that are
opened with Python's own `open` (sample grids, the lock) it sees the opening only: no checkpoint may depend on them,
and test_power_loss.py checks that by rebuilding the folder from the calls alone.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CREATES = os.O_CREAT | os.O_TRUNC
_FORBIDDEN = ("link", "symlink", "truncate", "pwrite", "writev", "sendfile", "copy_file_range")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call, in the order of their happening."""

    name: str  # open, write, fsync, ftruncate, mkdir, replace, unlink, rmdir, python-open; noted: saved
    path: str = ""
    target: str = ""  # of a replace
    handle: int = 0  # of an open file or folder; never used twice
    flags: int = 0
    data: bytes = b""
    number: int = 0  # length of an ftruncate, step of what is noted

    @property
    def changes(self) -> bool:
        """Whether a disk is another after it (or is told to keep what it has)."""
        return self.name != "saved" and (self.name != "open" or bool(self.flags & CREATES))


class Watch:
    """While inside, `before` is told of each change with its number, from 0, and may raise or end the process.

    What it returns for a write, if not None, is the number of bytes that it has written in the write's place.
    """

    def __init__(self, before: Callable[[int, Call], int | None] = lambda number, call: None):
        self.calls: list[Call] = []
        self.before, self.changes = before, 0
        self._handles = 0
        self._known: dict[int, tuple[int, str]] = {}  # descriptor -> handle, path
        self._real: dict[str, Any] = {}
        self._restore: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Watch:
        for name in ("open", "close", "write", "fsync", "ftruncate", "mkdir", "replace", "unlink", "rmdir"):
            self._put(os, name, getattr(self, f"_{name}"))
        self._put(os, "rename", self._replace)
        self._put(os, "remove", self._unlink)
        for name in _FORBIDDEN:
            self._put(os, name, _forbidden(name))
        for module in (io, builtins):
            self._put(module, "open", self._python_open)
        return self

    def __exit__(self, *failure: object) -> None:
        while self._restore:
            setattr(*self._restore.pop())

    def note(self, name: str, number: int) -> None:
        """Put something into the list that is no call of the system."""
        self.calls.append(Call(name=name, number=number))

    def tear(self, call: Call) -> int:
        """Do the first half of a write."""
        descriptor = next(key for key, (handle, _) in self._known.items() if handle == call.handle)
        return self._real["write"](descriptor, call.data[: len(call.data) // 2])

    def _put(self, module: Any, name: str, substitute: Any) -> None:
        original = getattr(module, name)
        self._restore.append((module, name, original))
        self._real["python_open" if module is not os else name] = original
        setattr(module, name, substitute)

    def _tell(self, call: Call) -> int | None:
        done = None
        if call.changes:
            self.changes += 1
            done = self.before(self.changes - 1, call)
        self.calls.append(call)
        return done

    def _place(self, path: Any, dir_fd: int | None = None) -> str:
        folder = self._known[dir_fd][1] if dir_fd is not None else Path.cwd()
        return os.path.normpath(Path(folder) / path)

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        self._handles += 1
        handle, place = self._handles, self._place(path, dir_fd)
        if flags & CREATES:
            self._tell(Call(name="open", path=place, handle=handle, flags=flags))
        descriptor = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        if not flags & CREATES:
            self._tell(Call(name="open", path=place, handle=handle, flags=flags))
        self._known[descriptor] = (handle, place)
        return descriptor

    def _close(self, descriptor: int) -> None:
        self._known.pop(descriptor, None)
        self._real["close"](descriptor)

    def _write(self, descriptor: int, data: Any) -> int:
        if descriptor in self._known:
            handle, place = self._known[descriptor]
            done = self._tell(Call(name="write", path=place, handle=handle, data=bytes(data)))
            if done is not None:
                return done
        return self._real["write"](descriptor, data)

    def _fsync(self, descriptor: int) -> None:
        if descriptor in self._known:
            handle, place = self._known[descriptor]
            self._tell(Call(name="fsync", path=place, handle=handle))
        self._real["fsync"](descriptor)

    def _ftruncate(self, descriptor: int, length: int) -> None:
        handle, place = self._known[descriptor]
        self._tell(Call(name="ftruncate", path=place, handle=handle, number=length))
        self._real["ftruncate"](descriptor, length)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._tell(Call(name="mkdir", path=self._place(path, dir_fd)))
        self._real["mkdir"](path, mode, dir_fd=dir_fd)

    def _replace(self, old: Any, new: Any, **folders: Any) -> None:
        assert not folders, "a rename relative to an open folder is not simulated"
        self._tell(Call(name="replace", path=self._place(old), target=self._place(new)))
        self._real["replace"](old, new)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._tell(Call(name="unlink", path=self._place(path, dir_fd)))
        self._real["unlink"](path, dir_fd=dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._tell(Call(name="rmdir", path=self._place(path, dir_fd)))
        self._real["rmdir"](path, dir_fd=dir_fd)

    def _python_open(self, file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if isinstance(file, int):
            self._known.pop(file, None)  # closed by Python from now on
        elif set(mode) & set("wax+"):
            self._tell(Call(name="python-open", path=self._place(file)))
        return self._real["python_open"](file, mode, *arguments, **named)


def _forbidden(name: str) -> Callable[..., Any]:
    def refuse(*arguments: Any, **named: Any) -> Any:
        raise AssertionError(f"os.{name}{arguments} is not simulated")

    return refuse
