"""Members of .zip/.tar read in place."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from ...errors import DataError
from .archive_names import TWICE, BadArchive, Member, folded
from .archive_names import MemberNames as Taken
from .compact_names import NameTable, hashes, is_all
from .extract import COMPLETE, Limits, blamed, readable
from .tar import is_tar, tar_places
from .zip_index import entries

MOST_BYTES = 512 << 20  # of one image, which is in memory while it is decoded
_MOST_DESCRIPTORS = 200  # archives kept open; others are opened for each image
_DEFLATED, PLAIN = 8, 255  # methods; PLAIN: no header of a zip is before it
_HEADER = struct.Struct("<4s5H3I2H")
_SPARE = 1024  # bytes of a zip's header that are read along with the content
SPOT = np.dtype(
    {
        "names": ["method", "at", "packed", "size", "crc", "name", "shard"],
        "formats": ["u1", "<i8", "<u4", "<u4", "<u4", "<u4", "<u4"],  # crc of the content, and of the name in a zip
    }
)
SPOT_ROW = struct.Struct("<Bq5I")  # the same, for writing
LARGEST = 2**32 - 1  # stands for all that is larger, and is not read


@dataclass(frozen=True)
class Archive:
    """An archive as it was when its members were looked up."""

    path: Path
    size: int
    modified_ns: int

    @classmethod
    def at(cls, path: Path) -> Archive:
        """The archive that is there now. Raises OSError."""
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)


def is_readable_in_place(path: Path) -> bool:
    """Whether a file is a .zip, or a .tar that is not compressed. Raises DataError if it cannot be read."""
    with readable(path) as file:
        head = file.read(512)
    return head.startswith((b"PK\3\4", b"PK\5\6")) or (len(head) == 512 and is_tar(head))


@dataclass(frozen=True)
class MemberSource:
    """Members of archives (a Source)."""

    archives: tuple[Archive, ...]
    names: NameTable  # within the archive, without a folder that holds everything
    spots: np.ndarray  # of SPOT
    _files: _Descriptors = field(default_factory=lambda: _Descriptors(), compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        archive = f"{self._archive(row).path.name}/" if len(self.archives) > 1 else ""
        return archive + self.names[row]

    def place(self, row: int) -> str:
        return f"{self.names[row]} in {self._archive(row).path}"

    def opened(self, row: int) -> IO[bytes]:
        method, at, packed, size, crc, name, shard = self.spots[row].item()
        if not size:
            raise ValueError("the file is empty")
        if max(size, packed) > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
        with self._files.reading(shard, self._archive(row)) as descriptor:
            if method == PLAIN:
                content = _read(descriptor, at, size)
            else:
                content = _unpacked(_packed(descriptor, at, packed, name), size, method)
        if method != PLAIN and zlib.crc32(content) != crc:
            raise ValueError("it is damaged: its checksum is another one")
        return io.BytesIO(content)

    def take(self, rows: np.ndarray) -> MemberSource:
        """Some of the members."""
        return replace(self, names=self.names.take(rows), spots=self.spots[rows])

    def _archive(self, row: int) -> Archive:
        return self.archives[int(self.spots["shard"][row])]


class _Descriptors:
    """Files opened where they are first read: each process has its own. No lock, which a fork would copy held."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": {}}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)

    @contextlib.contextmanager
    def reading(self, shard: int, archive: Archive) -> Iterator[int]:
        """A descriptor of the archive. Raises OSError, or ValueError if it is not the archive any more."""
        kept = self._open.get(shard)
        if kept is not None:
            yield kept
            return
        fresh = _open(archive)
        if len(self._open) < _MOST_DESCRIPTORS and self._open.setdefault(shard, fresh) == fresh:
            yield fresh
            return
        try:
            yield fresh
        finally:
            os.close(fresh)


def _open(archive: Archive) -> int:
    descriptor = os.open(archive.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    status = os.fstat(descriptor)
    if (status.st_size, status.st_mtime_ns) != (archive.size, archive.modified_ns):
        os.close(descriptor)
        raise ValueError("the archive has been changed since")
    return descriptor


_one_at_a_time = threading.Lock()


def _seek_and_read(descriptor: int, length: int, at: int) -> bytes:
    """What `os.pread` does, which Windows lacks."""
    with _one_at_a_time:
        os.lseek(descriptor, at, os.SEEK_SET)
        return os.read(descriptor, length)


_pread = getattr(os, "pread", _seek_and_read)


def _read(descriptor: int, at: int, length: int) -> bytes:
    """So many bytes. Raises ValueError where there are fewer."""
    block = _pread(descriptor, length, at)
    while len(block) < length:
        more = _pread(descriptor, length - len(block), at + len(block))
        if not more:
            raise ValueError("it is cut short")
        block += more
    return block


def _packed(descriptor: int, at: int, length: int, name: int) -> bytes:
    """The content of a zip's member as it is in the archive, behind the member's own header."""
    block = _pread(descriptor, _HEADER.size + _SPARE + length, at)
    if len(block) < _HEADER.size or not block.startswith(b"PK\3\4"):
        raise ValueError("its header is not where the directory says")
    named, extra = _HEADER.unpack_from(block)[9:]
    begin = _HEADER.size + named + extra
    if zlib.crc32(block[_HEADER.size : _HEADER.size + named]) != name:
        raise ValueError("the directory has another name for it")
    content = block[begin : begin + length]
    return content if len(content) == length else _read(descriptor, at + begin, length)


def _unpacked(content: bytes, size: int, method: int) -> bytes:
    """No more than `size` bytes are made of it, whatever it holds. Raises ValueError, zlib.error."""
    whole = True
    if method == _DEFLATED:
        unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        content = unpack.decompress(content, size + 1)
        whole = unpack.eof
    if len(content) != size or not whole:
        raise ValueError(f"it is not {size:,} bytes long, as the archive says")
    return content


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
        names = NameTable(part.names.raw(row)[begin:] for part in parts for row in range(len(part.names)))
    folders = {name[len(skipped) :] for part in parts for name in part.folders if name != skipped[:-1]}
    spots = np.concatenate([part.spots for part in parts]) if len(parts) > 1 else parts[0].spots
    source = MemberSource(archives, names, spots)
    return source, sorted({name.partition("/")[0].encode() for name in folders})


@dataclass(frozen=True)
class _Part:
    names: NameTable
    spots: np.ndarray
    folders: list[str]
    outer: str  # the folder that holds everything, with a slash, or nothing


def _look_up(archive: Archive, shard: int, extensions: Collection[str]) -> _Part:
    try:
        with readable(archive.path) as file:
            part = _walked(file, archive, shard, extensions)
        if Archive.at(archive.path) != archive:
            raise BadArchive("was changed while it was read")
        return part
    except BadArchive as error:
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
                raise BadArchive(f"has more than {self._limits.members:,} members")
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
        except BadArchive as error:
            raise BadArchive(error.why, error.member or member.name) from None

    def _count(self, name: str, size: int, parts: tuple[str, ...]) -> None:
        self.files, self.loose, self._total = self.files + 1, self.loose + (len(parts) == 1), self._total + size
        if size > self._limits.file:
            raise BadArchive(f"is too large: {size:,} bytes", name)
        if self._total > self._limits.allowance(self._archive.size):
            raise BadArchive(f"would unpack to more than {self._total:,} bytes, which no archive of images does")


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
    names = NameTable(walk.names(file))
    if not walk.files:
        raise BadArchive("holds no files")
    spots = np.frombuffer(walk.spots, dtype=SPOT)
    _check_names(names)
    order = names.order()
    folders = walk.taken.folders
    tops = {name.partition("/")[0] for name in folders}
    outer = f"{tops.pop()}/" if len(tops) == 1 and not walk.loose else ""
    return _Part(names.take(order), spots if is_all(order, len(names)) else spots[order], folders, outer)


def _check_names(names: NameTable) -> None:
    """Raises Broken for a name that is there twice."""
    same = hashes(folded(name).encode("utf-8", "surrogateescape") for name in names)
    order = np.argsort(same, kind="stable")
    twice = order[1:][same[order[1:]] == same[order[:-1]]]
    if len(twice):
        raise BadArchive(TWICE, names[int(twice.min())])
