"""Image files below a folder: finding them and opening them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

import numpy as np

from ...errors import DataError
from ..decode import EXTENSIONS, open_file
from .compact_names import NameTable


@dataclass(frozen=True)
class FileSource:
    """Image files below a folder (a Source)."""

    root: Path
    names: NameTable | Sequence[str]  # relative to the root, with slashes

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        return self.names[row]

    def place(self, row: int) -> str:
        return str(self.root / self.names[row])

    def opened(self, row: int) -> IO[bytes]:
        return open_file(self.root / self.names[row])

    def take(self, rows: np.ndarray) -> FileSource:
        """Some of the files."""
        return replace(self, names=NameTable(os.fsencode(self.names[int(row)]) for row in rows))


def scan(root: Path) -> dict[str, int]:
    """Image files below a folder: name relative to it, with slashes, to size in bytes; in byte order of the names."""
    names, sizes = find(root)
    return dict(zip(names, sizes.tolist(), strict=True))


def find(root: Path, extensions: Collection[str] = EXTENSIONS) -> tuple[NameTable, np.ndarray]:
    """Names, relative to the folder and in byte order, and sizes (int64) of the files that have such extensions.

    Hidden files are left out. Linked folders are followed at the first level only, so that no circle can be walked.
    Broken links and pipes are in it, with size 0: reading them is an error that names them, leaving them out would be
    silent.
    """
    sizes = array("q")

    def found() -> Iterator[bytes]:
        waiting = [iter(_entries(root, "", extensions))]
        while waiting:
            for name in waiting[-1]:
                if name.endswith(b"/"):
                    waiting.append(iter(_entries(root, os.fsdecode(name), extensions)))
                    break
                sizes.append(_size(os.path.join(root, os.fsdecode(name))))  # noqa: PTH118
                yield name
            else:
                waiting.pop()

    try:
        return _shared(root, NameTable(found())), np.array(sizes, dtype=np.int64)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror}", "check its permissions") from None


_seen: WeakValueDictionary[Path, NameTable] = WeakValueDictionary()


def _shared(root: Path, names: NameTable) -> NameTable:
    """The names that are held already, if they are still the same: training and validation share them."""
    known = _seen.get(root)
    if known is not None and known.equals(names):
        return known
    _seen[root] = names
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
            elif os.path.splitext(entry.name)[1].lower() in extensions:  # noqa: PTH122
                names.append(os.fsencode(prefix + entry.name))
    return sorted(names)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _size(path: str) -> int:
    """Bytes of a file, 0 of a pipe and of what cannot be reached. A Path would keep its parts for good."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0


def hidden(name: str) -> bool:
    """Whether a file or folder belongs to the system and not to the data."""
    return name.startswith(".") or name == "__MACOSX"
