"""The cache of huggingface_hub, which tools share: where it is, what is in a repository's folder, removing from it.

A repository's folder has `blobs`, named by their hashes, `snapshots/COMMIT` with links to them, and `refs`, which say
what commit a branch is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from . import atomic
from .paths import expanded

INCOMPLETE = ".incomplete"  # the end of the name of a blob that has not come whole


def shared_cache() -> Path:
    """The cache of huggingface_hub and the tools that use it, as the environment names it now."""
    for name, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if folder := os.environ.get(name):
            return expanded(os.path.expandvars(folder)).absolute() / below
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache").absolute() / "huggingface" / "hub"


def size_of(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Bytes and time of the last change of a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def arriving(folder: Path, since: float) -> int:
    """Bytes so far of the files that are on their way to the shared cache."""
    with contextlib.suppress(OSError):
        statuses = [path.stat() for path in (folder / "blobs").glob(f"*{INCOMPLETE}")]
        return sum(status.st_size for status in statuses if status.st_mtime >= since)
    return 0


def remember_branch(folder: Path, revision: str, commit: str, *, is_new: bool) -> None:
    """Let other tools find the files without a network: which commit a branch is, if the hub has just said it.

    Otherwise another tool may know a newer commit.
    """
    path = folder / "refs" / revision
    if is_new or not path.exists():
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_atomically(path, commit)


def discard(path: Path, repository: Path) -> None:
    """Remove a file of a repository from the shared cache, and its content if that is the repository's own."""
    blob = own_blob(path, repository)
    path.unlink(missing_ok=True)
    if blob:
        blob.unlink(missing_ok=True)


def own_blob(path: Path, repository: Path) -> Path | None:
    """What a link in a snapshot leads to, if it lies among the repository's blobs; a link there is not followed."""
    try:
        target = Path(os.path.normpath(path.parent.resolve() / path.readlink()))
    except OSError:  # it is a file, or missing
        return None
    return target if target.parent == repository.resolve() / "blobs" else None


def remove_files(snapshot: Path, files: Collection[Path]) -> int:
    """Remove files of a snapshot from the shared cache; their content, unless another link needs it; empty folders.

    Returns how many bytes stay, because they are needed. Raises OSError.
    """
    repository = snapshot.parents[1]
    blobs = {blob for file in files if (blob := own_blob(file, repository))}
    for file in files:
        file.unlink(missing_ok=True)
    needed = {own_blob(path, repository) for path in snapshot.parent.rglob("*") if path.is_symlink()}
    for blob in blobs - needed:
        blob.unlink(missing_ok=True)
    kept = sum(size_of(blob) or 0 for blob in blobs & needed)
    if any((repository / "blobs").glob(f"*{INCOMPLETE}")):  # another tool may be about to link its file
        return kept
    folders = {folder for file in files for folder in file.parents if snapshot in (folder, *folder.parents)}
    with contextlib.suppress(OSError):  # not empty
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            folder.rmdir()
        for ref in (repository / "refs").rglob("*"):
            if ref.is_file() and ref.read_bytes().strip() == snapshot.name.encode():
                ref.unlink()
        snapshot.parent.rmdir()
        shutil.rmtree(repository)
    return kept
