"""Members of .zip and .tar archives, read where they lie: an index of the members, then each by one read."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from ...errors import DataError
from ..formats import ending
from .archive_names import TWICE, BadArchive, Limits, Member, MemberNames, accepted, folded
from .compact_names import NameTable, hashes, is_all
from .extract import open_archive, refused
from .files import stamp
from .tar import is_tar, tar_places
from .zip import DEFLATED, HEADER, STARTS, content_start, entries

MOST_BYTES = 512 << 20  # of one image, which is in memory while it is decoded
_MOST_DESCRIPTORS = 200  # archives kept open; others are opened for each image
_PLAIN = 255  # beside the methods of a zip: no header of a member is before the content
_SPARE = 1024  # bytes of a zip's header that are read along with the content
_SPOT = np.dtype(
    {
        "names": ["method", "at", "packed", "size", "crc", "name", "shard"],
        "formats": ["u1", "<i8", "<u4", "<u4", "<u4", "<u4", "<u4"],  # crc of the content, and of the name in a zip
    }
)
_SPOT_ROW = struct.Struct("<Bq5I")  # the same, for writing
_LARGEST = 2**32 - 1  # a size that stands for all larger ones, which are not read


@dataclass(frozen=True)
class Archive:
    """An archive as it was when its members were looked up."""

    path: Path
    size: int
    modified_ns: int

    @classmethod
    def at(cls, path: Path) -> Archive:
        """The archive that is there now. Raises OSError."""
        return cls(path, *stamp(path))


def is_readable_in_place(path: Path) -> bool:
    """Whether a file is a .zip, or a .tar that is not compressed. Raises DataError if it cannot be read."""
    with open_archive(path) as file:
        head = file.read(512)
    return head.startswith(STARTS) or (len(head) == 512 and is_tar(head))


@dataclass(frozen=True)
class MemberSource:
    """Members of archives (a Source)."""

    archives: tuple[Archive, ...]
    names: NameTable  # within the archive, without a folder that holds everything
    spots: np.ndarray  # of _SPOT
    left_out: Mapping[str, int] = field(default_factory=dict)  # members that look like images, by ending
    _files: _Descriptors = field(default_factory=lambda: _Descriptors(), compare=False)

    @property
    def sizes(self) -> np.ndarray:
        return self.spots["size"]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        archive = f"{self._archive(row).path.name}/" if len(self.archives) > 1 else ""
        return archive + self.names[row]

    def place(self, row: int) -> str:
        return f"{self.names[row]} in {self._archive(row).path}"

    def open_bytes(self, row: int) -> IO[bytes]:
        method, at, packed, size, crc, name, shard = self.spots[row].item()
        if not size:
            raise ValueError("the file is empty")
        if max(size, packed) > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
        with self._files.reading(shard, self._archive(row)) as descriptor:
            if method == _PLAIN:
                return io.BytesIO(_read(descriptor, at, size))
            content = _unpacked(_packed(descriptor, at, packed, name), size, method)
        if zlib.crc32(content) != crc:
            raise ValueError("it is damaged: its checksum is another one")
        return io.BytesIO(content)

    def take(self, rows: np.ndarray) -> MemberSource:
        """Some of the members."""
        return replace(self, names=self.names.take(rows), spots=self.spots[rows])

    def below(self, folder: str) -> MemberSource:
        """The same members, all of which are in a folder (with a slash at its end), with names relative to it."""
        return replace(self, names=self.names.without(len(os.fsencode(folder))))

    def close(self) -> None:
        """Close the archives; they are opened again when they are read."""
        self._files.close()

    def _archive(self, row: int) -> Archive:
        return self.archives[int(self.spots["shard"][row])]


class _Descriptors:
    """Archives opened when first read, by each process for itself. No lock: a fork would copy it locked."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": {}}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        while self._open:
            with contextlib.suppress(OSError):
                os.close(self._open.popitem()[1])

    @contextlib.contextmanager
    def reading(self, shard: int, archive: Archive) -> Iterator[int]:
        """A descriptor of the archive. Raises OSError, or ValueError if it is not the archive any more."""
        descriptor = self._open.get(shard)
        if descriptor is not None:
            yield descriptor
            return
        descriptor = _open(archive)
        if len(self._open) < _MOST_DESCRIPTORS and self._open.setdefault(shard, descriptor) == descriptor:
            yield descriptor
            return
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _open(archive: Archive) -> int:
    descriptor = os.open(archive.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    if stamp(descriptor) != (archive.size, archive.modified_ns):
        os.close(descriptor)
        raise ValueError("the archive has been changed since")
    return descriptor


_seeking = threading.Lock()


def _seek_and_read(descriptor: int, length: int, at: int) -> bytes:
    """What `os.pread` does, which Windows lacks."""
    with _seeking:
        os.lseek(descriptor, at, os.SEEK_SET)
        return os.read(descriptor, length)


_pread = getattr(os, "pread", _seek_and_read)


def _read(descriptor: int, at: int, length: int) -> bytes:
    """Exactly `length` bytes. Raises ValueError if there are fewer."""
    block = _pread(descriptor, length, at)
    while len(block) < length:
        more = _pread(descriptor, length - len(block), at + len(block))
        if not more:
            raise ValueError("it is cut short")
        block += more
    return block


def _packed(descriptor: int, at: int, length: int, name_crc: int) -> bytes:
    """The content of a zip's member as it is in the archive, behind the member's own header."""
    block = _pread(descriptor, HEADER.size + _SPARE + length, at)
    start = content_start(block, name_crc)
    content = block[start : start + length]
    return content if len(content) == length else _read(descriptor, at + start, length)


def _unpacked(content: bytes, size: int, method: int) -> bytes:
    """The content unpacked, never more than `size` bytes of it. Raises ValueError, zlib.error."""
    whole = True
    if method == DEFLATED:
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        content = unpack.decompress(content, size + 1)
        whole = unpack.eof
    if len(content) != size or not whole:
        raise ValueError(f"it is not {size:,} bytes long, as the archive says")
    return content


def look_up(archives: tuple[Archive, ...], extensions: Collection[str]) -> tuple[MemberSource, list[bytes]]:
    """The files that have such extensions, in byte order of their names in each archive; and all folders.

    One folder that holds everything is left out of the names. Raises DataError for what is no archive of images.
    """
    parts = [_look_up(archive, number, extensions) for number, archive in enumerate(archives)]
    outer = {part.outer for part in parts}
    skipped = outer.pop() if len(outer) == 1 else ""
    names = parts[0].names
    if len(parts) > 1 or skipped:
        begin = len(skipped.encode())
        names = NameTable(part.names.raw(row)[begin:] for part in parts for row in range(len(part.names)))
    folders = {name[len(skipped) :].encode() for part in parts for name in part.folders if name != skipped[:-1]}
    spots = np.concatenate([part.spots for part in parts]) if len(parts) > 1 else parts[0].spots
    return MemberSource(archives, names, spots), sorted(folders)


@dataclass(frozen=True)
class _Part:
    """What was found in one archive."""

    names: NameTable
    spots: np.ndarray
    folders: list[str]
    outer: str  # the folder that holds everything, with a slash, or nothing


def _look_up(archive: Archive, number: int, extensions: Collection[str]) -> _Part:
    try:
        with open_archive(archive.path) as file:
            part = _indexed(_members(file, archive), archive, number, extensions)
        if Archive.at(archive.path) != archive:
            raise BadArchive("was changed while it was read")
        return part
    except BadArchive as error:
        raise refused(archive.path, error) from None
    except OSError as error:
        raise DataError(f"cannot read {archive.path}: {error.strerror or error}", "check the disk") from None


def _members(file: BinaryIO, archive: Archive) -> Iterator[Member[tuple[int, ...]]]:
    """All members, with all of a spot but the archive's number."""
    if file.read(2) == b"PK":
        for entry in entries(file):
            packed, size = min(entry.packed, _LARGEST), min(entry.size, _LARGEST)
            spot = entry.method, entry.header, packed, size, entry.crc, zlib.crc32(entry.raw_name)
            yield Member(entry.name, entry.size, None if entry.is_folder else spot)
    else:
        file.seek(0)
        for member in tar_places(file, archive.size):
            size, at = min(member.size, _LARGEST), member.content
            yield Member(member.name, member.size, None if at is None else (_PLAIN, at, size, size, 0, 0))


def _indexed(
    members: Iterator[Member[tuple[int, ...]]], archive: Archive, number: int, extensions: Collection[str]
) -> _Part:
    """The members that are wanted, in byte order of their names. Raises BadArchive."""
    taken, limits, spots = MemberNames(files=False), Limits(), bytearray()
    files = loose = total = 0  # loose: in no folder

    def wanted() -> Iterator[bytes]:
        nonlocal files, loose, total
        for member, parts in accepted(members, taken, limits):
            if member.content is None:
                continue
            files, loose, total = files + 1, loose + (len(parts) == 1), total + member.size
            if total > limits.allowance(archive.size):
                raise BadArchive(f"would unpack to more than {total:,} bytes, which no archive of images does")
            if ending(parts[-1]) in extensions:
                spots.extend(_SPOT_ROW.pack(*member.content, number))
                yield os.fsencode("/".join(parts))

    names = NameTable(wanted())
    if not files:
        raise BadArchive("holds no files")
    _check_twice(names)
    order, rows = names.order(), np.frombuffer(spots, dtype=_SPOT)
    tops = {name.partition("/")[0] for name in taken.folders}
    outer = f"{tops.pop()}/" if len(tops) == 1 and not loose else ""
    return _Part(names.take(order), rows if is_all(order, len(names)) else rows[order], taken.folders, outer)


def _check_twice(names: NameTable) -> None:
    """Raises BadArchive for a name that is there twice."""
    same = hashes(folded(name).encode("utf-8", "surrogateescape") for name in names)
    order = np.argsort(same, kind="stable")
    twice = order[1:][same[order[1:]] == same[order[:-1]]]
    if len(twice):
        raise BadArchive(TWICE, names[int(twice.min())])
