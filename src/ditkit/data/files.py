"""Image files below a folder: finding them and opening them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import DataError
from .transforms import EXTENSIONS, open_file


@dataclass(frozen=True)
class FileSource:
    """Image files below a folder (a Source)."""

    root: Path
    names: Sequence[str]  # relative to the root, with slashes

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        return self.names[row]

    def place(self, row: int) -> str:
        return str(self.root / self.names[row])

    def opened(self, row: int) -> IO[bytes]:
        return open_file(self.root / self.names[row])


def scan(root: Path) -> dict[str, int]:
    """Image files below a folder: name relative to it, with slashes, to size in bytes; in byte order of the names.

    Hidden files are left out. Linked folders are followed at the first level only, so that no circle can be walked.
    Broken links and pipes are in it, with size 0: reading them is an error that names them, leaving them out would be
    silent.
    """
    found: dict[str, int] = {}
    waiting = [""]
    try:
        while waiting:
            prefix = waiting.pop()
            with os.scandir(root / prefix) as entries:
                for entry in entries:
                    if hidden(entry.name):
                        continue
                    size = _size(entry)
                    if size is None:
                        if not prefix or not entry.is_symlink():
                            waiting.append(f"{prefix}{entry.name}/")
                    elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:  # noqa: PTH122
                        found[prefix + entry.name] = size
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror}", "check its permissions") from None
    return {name: found[name] for name in sorted(found, key=os.fsencode)}


def _size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a file, 0 of a pipe and of what cannot be reached, None of a folder."""
    try:
        return None if entry.is_dir() else entry.stat().st_size
    except OSError:
        return 0


def hidden(name: str) -> bool:
    """Whether a file or folder belongs to the system and not to the data."""
    return name.startswith(".") or name == "__MACOSX"
