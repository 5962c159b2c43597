"""Unpacking archives of images from anywhere: whole or not at all, and nothing outside the target."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...errors import DataError, MachineError
from ...io import atomic
from ...io.locks import exclusive
from ...io.paths import NO_ROOM, check_room
from ...io.reading import blaming_the_machine
from .archive_names import BLOCK, COMPLETE, BadArchive, Limits, Member, MemberNames, accepted, blaming
from .files import hidden, stamp
from .tar import UNPACKERS, is_tar, tar_members
from .zip import STARTS, entries, zip_members

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_UNFINISHED = ".tmp-unpack-"
_OTHERS = {b"Rar!": "a .rar archive", b"7z\xbc\xaf": "a .7z archive", b"\x28\xb5\x2f\xfd": "packed by zstd"}
_BLOCK_OF_DISK = 4096
_FULL = (errno.ENOSPC, errno.EDQUOT)

Progress = Callable[[float, float], None]  # bytes done, of how many


def is_archive(name: str) -> bool:
    """Whether a file's name is that of an archive which ditkit unpacks."""
    return name.lower().endswith(SUFFIXES)


def extract(
    archive: Path, target: Path, *, limits: Limits = Limits(), on_progress: Progress = lambda done, total: None
) -> Path:
    """Unpack an archive into a new folder, once; a target that is whole is left alone. Returns it.

    Hidden files are left out. Raises DataError naming archive and member, MachineError for the disk.
    """
    if is_whole(target):
        return target
    try:
        atomic.make_folder(target.parent)
        with exclusive(target):
            if not is_whole(target):
                _remove_leftovers(target)
                _extract(archive, target, limits, on_progress)
    except BadArchive as error:
        raise refused(archive, error) from None
    except OSError as error:
        why = "the disk is full" if error.errno in _FULL else f"{error.strerror or error}"
        hint = atomic.path_is_too_long(error) or NO_ROOM
        raise MachineError(f"cannot unpack {archive} into {target.parent}: {why}", hint) from None
    return target


def refused(archive: Path, error: BadArchive) -> DataError:
    """What is wrong with an archive, and what to do."""
    name = error.member if len(error.member) <= 120 else f"{error.member[:60]}…{error.member[-50:]}"
    hint = "get the archive again, or unpack it yourself and give the folder"
    return DataError(f"{archive}{f': {name!r}' if name else ''} {error.why}", hint)


def is_whole(folder: Path) -> bool:
    """Whether a folder is one that `extract` has finished, with as many files and bytes as it had then."""
    try:
        with blaming_the_machine(folder / COMPLETE):
            note = json.loads((folder / COMPLETE).read_bytes())
        return isinstance(note, dict) and [note.get("files"), note.get("bytes")] == list(_measure(folder))
    except (OSError, ValueError, RecursionError):
        return False


def _extract(archive: Path, target: Path, limits: Limits, on_progress: Progress) -> None:
    unfinished = target.with_name(f"{_UNFINISHED}{target.name}-{secrets.token_hex(4)}")
    try:
        atomic.make_folder(unfinished)
        with open_archive(archive) as file:
            before = stamp(file.fileno())
            files, written = _write_members(_open(archive, file, unfinished, limits), unfinished, limits, on_progress)
        if not files:
            raise BadArchive("holds no files")
        if stamp(archive) != before:
            raise BadArchive("was changed while it was unpacked")
        source = {"place": str(archive), "bytes": before[0], "modified_ns": before[1]}
        note = {"format": 1, "files": files, "bytes": written, "source": source}
        _sync(unfinished)
        atomic.write_synced(unfinished / COMPLETE, json.dumps(note, indent=1).encode())
        atomic.sync_folder(unfinished)
        try:
            atomic.rename(unfinished, target)
        except OSError:
            if not is_whole(target):  # by another process, where the file system has no locks
                raise
        atomic.sync_folder(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def open_archive(archive: Path) -> BinaryIO:
    """The archive's file. Raises DataError if it is missing or unreadable."""
    if not archive.is_file():
        raise DataError(f"there is no archive {archive}", "check the path")
    try:
        return archive.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {archive}: {error.strerror}", "check its permissions") from None


@dataclass(frozen=True)
class _Opened:
    """An archive's members, and its progress: how much of `total` is done once so many bytes are written."""

    members: Iterator[Member[Iterator[bytes]]]
    done: Callable[[int], int]
    total: int


def _open(archive: Path, file: BinaryIO, folder: Path, limits: Limits) -> _Opened:
    """The members of an archive of any kind. Raises DataError, BadArchive, and MachineError where there is no room."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(512)
    file.seek(0)
    if not size:
        raise BadArchive("is an empty file")
    if head.startswith(STARTS):
        listed = list(limits.counted(entries(file)))
        total = sum(entry.size for entry in listed)
        if total > limits.allowance(size):
            raise BadArchive(f"would unpack from {size:,} to {total:,} bytes, which no archive of images does")
        check_room(archive, folder.parent, total + len(listed) * _BLOCK_OF_DISK)
        return _Opened(zip_members(file, listed), lambda written: written, total)
    unpack = next((unpack for first, unpack in UNPACKERS.items() if head.startswith(first)), None)
    if unpack or is_tar(head):
        check_room(archive, folder.parent, size)
        members = tar_members(unpack(file), limits.allowance(size)) if unpack else tar_members(file, size)
        return _Opened(members, lambda _: file.tell(), size)
    other = next((kind for first, kind in _OTHERS.items() if head.startswith(first)), "")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        other = "a web page, probably a quota or login page"
    if not other and archive.name.lower().endswith(SUFFIXES):
        raise BadArchive("is cut short, or no archive")
    raise DataError(
        f"{archive} is a file, not a folder of images or an archive of one{other and ': it is '}{other}",
        f"unpack it and give the folder; ditkit itself unpacks {' '.join(SUFFIXES)}",
    )


def _write_members(opened: _Opened, folder: Path, limits: Limits, on_progress: Progress) -> tuple[int, int]:
    """Numbers of files and bytes written."""
    made: set[tuple[str, ...]] = {()}
    files = written = shown = 0
    for member, parts in accepted(opened.members, MemberNames(), limits):
        parent = parts if member.content is None else parts[:-1]
        try:
            if parent not in made:
                folder.joinpath(*parent).mkdir(parents=True, exist_ok=True)
                made.add(parent)
            if member.content is None:
                continue
            with blaming(member.name):
                for length in _write(folder.joinpath(*parts), member.content):
                    written += length
                    if opened.done(written) - shown >= BLOCK:
                        shown = opened.done(written)
                        on_progress(shown, opened.total)
        except FileExistsError:
            raise BadArchive("has the name of another member on this file system", member.name) from None
        files += 1
    on_progress(opened.total, opened.total)
    return files, written


def _write(path: Path, blocks: Iterator[bytes]) -> Iterator[int]:
    """Write a new file; yields the length of each block once it is written."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        for block in blocks:
            atomic.write_all(descriptor, block)
            yield len(block)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    """Force all files to disk, once all are written: doing so after each takes twenty times as long.

    That of the folders empties the drive's cache where `atomic.sync` does.
    """
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            descriptor = os.open(Path(parent, name), os.O_RDWR if os.name == "nt" else os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        atomic.sync_folder(Path(parent))


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes left beside the target, and the target itself if it has been damaged since."""
    for leftover in target.parent.glob(f"{_UNFINISHED}*"):
        name = re.fullmatch(rf"{re.escape(_UNFINISHED)}(.+)-[0-9a-f]{{8}}", leftover.name)
        if name and name[1] == target.name:
            shutil.rmtree(leftover, ignore_errors=True)
        elif name:
            with exclusive(leftover.with_name(name[1]), wait=False) as unused:
                if unused:
                    shutil.rmtree(leftover, ignore_errors=True)
    if target.exists():
        damaged = target.with_name(f"{_UNFINISHED}{target.name}-{secrets.token_hex(4)}")
        atomic.rename(target, damaged)
        shutil.rmtree(damaged, ignore_errors=True)


def _measure(folder: Path) -> tuple[int, int]:
    """Numbers of files and bytes, without those that the system adds."""
    files = size = 0
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if hidden(entry.name) or entry.path == str(folder / COMPLETE):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                else:
                    files, size = files + 1, size + entry.stat(follow_symlinks=False).st_size
    return files, size
