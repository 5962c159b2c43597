"""Looking up what lies where in .zip and .tar archives, as sceptically as if they were unpacked."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ..errors import DataError
from .archives import COMPLETE, Limits, blamed, readable
from .members import TWICE, Broken, Member, folded
from .members import Names as Taken
from .names import Names, hashes, is_all
from .readers import tar_places
from .shards import LARGEST, PLAIN, SPOT, SPOT_ROW, Archive, MemberSource
from .zip_directory import entries


def look_up(archives: tuple[Archive, ...], extensions: Collection[str]) -> tuple[MemberSource, list[bytes]]:
    """The files that have such extensions, in byte order of their names in each archive; and the top folders.

    One folder that holds everything is left out of the names. Raises DataError for what no archive of images is.
    """
    parts = [_look_up(archive, shard, extensions) for shard, archive in enumerate(archives)]
    outer = {part.outer for part in parts}
    skipped = outer.pop() if len(outer) == 1 else ""
    begin = len(skipped.encode())
    names = parts[0].names
    if len(parts) > 1 or skipped:
        names = Names(part.names.raw(row)[begin:] for part in parts for row in range(len(part.names)))
    folders = {name[len(skipped) :] for part in parts for name in part.folders if name != skipped[:-1]}
    spots = np.concatenate([part.spots for part in parts]) if len(parts) > 1 else parts[0].spots
    source = MemberSource(archives, names, spots)
    return source, sorted({name.partition("/")[0].encode() for name in folders})


@dataclass(frozen=True)
class _Part:
    names: Names
    spots: np.ndarray
    folders: list[str]
    outer: str  # the folder that holds everything, with a slash, or nothing


def _look_up(archive: Archive, shard: int, extensions: Collection[str]) -> _Part:
    try:
        with readable(archive.path) as file:
            part = _walked(file, archive, shard, extensions)
        if Archive.at(archive.path) != archive:
            raise Broken("was changed while it was read")
        return part
    except Broken as error:
        raise blamed(archive.path, error) from None
    except OSError as error:
        raise DataError(f"cannot read {archive.path}: {error.strerror or error}", "check the disk") from None


class _Walk:
    """One pass over an archive's members."""

    def __init__(self, archive: Archive, shard: int, extensions: Collection[str]):
        self._archive, self._shard, self._extensions = archive, shard, extensions
        self._limits, self._total = Limits(), 0
        self.taken = Taken(files=False)
        self.files, self.loose = 0, 0  # how many there are, and how many of them in no folder
        self.spots = bytearray()

    def names(self, file: BinaryIO) -> Iterator[bytes]:
        """The names that are asked for; where their contents lie is appended to `spots`."""
        for count, (name, size, spot) in enumerate(_members(file, self._archive), start=1):
            if count > self._limits.members:
                raise Broken(f"has more than {self._limits.members:,} members")
            parts = self._parts(Member(name, size, None if spot is None else iter(())))
            if spot is None or not parts or "/".join(parts).lower() == COMPLETE.lower():
                continue
            self._count(name, size, parts)
            if os.path.splitext(parts[-1])[1].lower() in self._extensions:  # noqa: PTH122
                self.spots += SPOT_ROW.pack(*spot, self._shard)
                yield os.fsencode("/".join(parts))

    def _parts(self, member: Member) -> tuple[str, ...]:
        try:
            return self.taken.take(member)
        except Broken as error:
            raise Broken(error.why, error.member or member.name) from None

    def _count(self, name: str, size: int, parts: tuple[str, ...]) -> None:
        self.files, self.loose, self._total = self.files + 1, self.loose + (len(parts) == 1), self._total + size
        if size > self._limits.file:
            raise Broken(f"is too large: {size:,} bytes", name)
        if self._total > self._limits.allowance(self._archive.size):
            raise Broken(f"would unpack to more than {self._total:,} bytes, which no archive of images does")


def _members(file: BinaryIO, archive: Archive) -> Iterator[tuple[str, int, tuple[int, ...] | None]]:
    """Name, bytes, and all of a spot but the shard; None for a folder."""
    if file.read(2) == b"PK":
        for entry in entries(file):
            packed, size, name = min(entry.packed, LARGEST), min(entry.size, LARGEST), zlib.crc32(entry.raw)
            folder = entry.name.endswith("/")
            yield (
                entry.name,
                entry.size,
                None if folder else (entry.method, entry.header, packed, size, entry.crc, name),
            )
    else:
        file.seek(0)
        for name, at, size in tar_places(file, archive.size):
            in_short = min(size, LARGEST)
            yield name, size, None if at is None else (PLAIN, at, in_short, in_short, 0, 0)


def _walked(file: BinaryIO, archive: Archive, shard: int, extensions: Collection[str]) -> _Part:
    walk = _Walk(archive, shard, extensions)
    names = Names(walk.names(file))
    if not walk.files:
        raise Broken("holds no files")
    spots = np.frombuffer(walk.spots, dtype=SPOT)
    _check_names(names)
    order = names.order()
    folders = walk.taken.folders
    tops = {name.partition("/")[0] for name in folders}
    outer = f"{tops.pop()}/" if len(tops) == 1 and not walk.loose else ""
    return _Part(names.take(order), spots if is_all(order, len(names)) else spots[order], folders, outer)


def _check_names(names: Names) -> None:
    """Raises Broken for a name that is there twice."""
    same = hashes(folded(name).encode("utf-8", "surrogateescape") for name in names)
    order = np.argsort(same, kind="stable")
    twice = order[1:][same[order[1:]] == same[order[:-1]]]
    if len(twice):
        raise Broken(TWICE, names[int(twice.min())])
