"""Image files below a folder: finding them and opening them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

import numpy as np

from ...errors import DataError
from ..decode import open_file
from ..formats import ENDINGS, ending
from .compact_names import NameTable


@dataclass(frozen=True, eq=False)
class FileSource:
    """Files below a folder (a Source)."""

    root: Path
    names: NameTable  # relative to the root, with slashes
    sizes: np.ndarray  # int64 (N,), bytes
    left_out: Mapping[str, int] = field(default_factory=dict)  # files that look like images, by ending

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        return self.names[row]

    def place(self, row: int) -> str:
        return str(self.root / self.names[row])

    def open_bytes(self, row: int) -> IO[bytes]:
        return open_file(self.root / self.names[row])

    def take(self, rows: np.ndarray) -> FileSource:
        """Some of the files."""
        return replace(self, names=self.names.take(rows), sizes=self.sizes[rows])


def find(root: Path, extensions: Collection[str] = ENDINGS) -> FileSource:
    """The files below a folder that have such extensions, in byte order of their names.

    Hidden files are left out. Linked folders are followed at the first level only, so that no circle can be walked.
    Broken links and pipes are in it, with size 0: reading them is an error that names them, leaving them out would be
    silent. Raises DataError for a folder that cannot be read.
    """
    sizes = array("q")

    def names() -> Iterator[bytes]:
        pending = [iter(_entries(root, "", extensions))]
        while pending:
            for name in pending[-1]:
                if name.endswith(b"/"):
                    pending.append(iter(_entries(root, os.fsdecode(name), extensions)))
                    break
                sizes.append(_size(os.path.join(root, os.fsdecode(name))))  # noqa: PTH118
                yield name
            else:
                pending.pop()

    try:
        return FileSource(root, _shared(root, NameTable(names())), np.array(sizes, dtype=np.int64))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror}", "check its permissions") from None


_in_use: WeakValueDictionary[Path, NameTable] = WeakValueDictionary()


def _shared(root: Path, names: NameTable) -> NameTable:
    """The equal table that is in memory already, if there is one: training and validation share it."""
    earlier = _in_use.get(root)
    if earlier is not None and earlier.equals(names):
        return earlier
    _in_use[root] = names
    return names


def _entries(root: Path, prefix: str, extensions: Collection[str]) -> list[bytes]:
    """Files, and folders with a slash at their end, of one folder: sorted so, they come in byte order of all names."""
    names: list[bytes] = []
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            if hidden(entry.name):
                continue
            if _is_folder(entry):
                if not prefix or not entry.is_symlink():
                    names.append(os.fsencode(f"{prefix}{entry.name}/"))
            elif ending(entry.name) in extensions:
                names.append(os.fsencode(prefix + entry.name))
    return sorted(names)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _size(path: str) -> int:
    """Bytes of a file, 0 of a pipe and of what cannot be reached. A Path would keep its parts in memory."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0


def stamp(file: Path | int) -> tuple[int, int]:
    """Size and time of the last change (ns) of a file: another pair once it has been changed. Raises OSError."""
    status = os.stat(file)  # noqa: PTH116
    return status.st_size, status.st_mtime_ns


def hidden(name: str) -> bool:
    """Whether a file or folder belongs to the system and not to the data."""
    return name.startswith(".") or name == "__MACOSX"
