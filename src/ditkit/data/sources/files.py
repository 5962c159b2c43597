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

    def below(self, folder: str) -> FileSource:
        """The same files, all of which are in a folder (with a slash at its end), with names relative to it."""
        return replace(self, root=self.root / folder, names=self.names.without(len(os.fsencode(folder))))


def find(root: Path, extensions: Collection[str] = ENDINGS, folders: list[bytes] | None = None) -> FileSource:
    """The files below a folder that have such extensions, in byte order of their names.

    Hidden files are left out. A linked folder is followed unless it leads to a folder around it, or below the first
    level to where another link has led. Broken links and pipes are in it, with size 0: reading them is an error that
    names them, leaving them out would be silent. The folders are added to `folders`. Raises DataError for a folder
    that cannot be read.
    """
    sizes, links = array("q"), _Links(root)

    def names() -> Iterator[bytes]:
        pending = [iter(_entries(root, "", extensions, links))]
        while pending:
            for name in pending[-1]:
                if name.endswith(b"/"):
                    if folders is not None:
                        folders.append(name[:-1])
                    pending.append(iter(_entries(root, os.fsdecode(name), extensions, links)))
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


class _Links:
    """Which linked folders are followed."""

    def __init__(self, root: Path):
        self._root, self._followed = root, set[str]()

    def follows(self, prefix: str, name: str) -> bool:
        """Whether to go where a link in a folder leads: each place once, and never a folder around the link."""
        target = os.path.realpath(self._root / prefix / name)
        parts = prefix.split("/")
        around = (os.path.realpath(self._root / "/".join(parts[:depth])) for depth in range(len(parts)))
        if any(f"{folder}{os.sep}".startswith(f"{target.rstrip(os.sep)}{os.sep}") for folder in around):
            return False
        if prefix and target in self._followed:
            return False
        self._followed.add(target)
        return True


def _entries(root: Path, prefix: str, extensions: Collection[str], links: _Links) -> list[bytes]:
    """Files, and folders with a slash at their end, of one folder: sorted so, they come in byte order of all names."""
    names: list[bytes] = []
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            if hidden(entry.name):
                continue
            if _is_folder(entry):
                if not entry.is_symlink() or links.follows(prefix, entry.name):
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


# Folders that systems for storage and editors leave among the data, besides those whose names begin with a dot.
_OF_THE_SYSTEM = frozenset(
    {
        *("__macosx", "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "@recently-snapshot", "$recycle.bin"),
        *("recycler", "system volume information", "lost+found", "__pycache__"),
    }
)


def hidden(name: str) -> bool:
    """Whether a file or folder belongs to the system and not to the data."""
    return name.startswith(".") or name.lower() in _OF_THE_SYSTEM
