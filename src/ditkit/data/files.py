"""Image files on disk as a dataset: what `folder` and `celeba` have in common."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from .transforms import EXTENSIONS, fit, load_image


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Images below a folder, decoded when they are asked for (a Dataset)."""

    labels: tuple[str, ...]
    fingerprint: str
    root: Path
    names: Sequence[str]
    label_ids: Sequence[int]
    image_size: tuple[int, int]
    channels: int

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        image = load_image(self.root / self.names[index], self.channels, smallest=self.image_size)
        return fit(image, *self.image_size), self.label_ids[index]


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


def fingerprint(names: Sequence[str], sizes: Sequence[int], label_ids: Sequence[int]) -> str:
    """A hash of names, sizes and labels in their order: the same files give the same, wherever they lie."""
    digest = hashlib.sha256()
    for name, size, label in zip(names, sizes, label_ids, strict=True):
        digest.update(os.fsencode(name) + f"\0{size}\0{label}\n".encode())
    return digest.hexdigest()
