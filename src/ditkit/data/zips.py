"""Reading .zip archives, believing nothing they say: offsets, sizes, checksums (APPNOTE 6.3).

Own code and not `zipfile`, which holds the whole directory in memory and inflates bzip2 without a bound.
"""

from __future__ import annotations

import stat
import struct
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from .members import BLOCK, Broken, Member

_END = struct.Struct("<4s4H2LH")  # signature, two disks, entries here, entries, length, start, comment
_PLACE_64 = struct.Struct("<4sLQL")  # signature, disk, position of the end record, disks
_END_64 = struct.Struct("<4sQ2H2L4Q")  # signature, size, versions, disks, entries here, entries, length, start
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_SAYS_64, _COUNT_64 = 0xFFFFFFFF, 0xFFFF  # "look into the 64-bit field"
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF_8 = 0x1 | 0x40 | 0x2000, 0x800


@dataclass(frozen=True)
class _Entry:
    """A row of the directory."""

    spelled: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int  # bytes in the archive
    size: int  # bytes unpacked
    mode: int  # of Unix; 0 where it was not made there
    offset: int


class Zip:
    """A .zip archive: how many members it declares, how many bytes, and the members one by one."""

    def __init__(self, file: BinaryIO, most: int):
        """Reads the directory once. Raises Broken when it is damaged, has more than `most` members, or two in one."""
        self._file = file
        self._start, self._length, self.count = _find_directory(file)
        if self.count > most:
            raise Broken(f"has more than {most:,} members")
        self.size = 0
        self._offsets = array("Q")
        for entry in self._entries():
            self.size += entry.size
            self._offsets.append(entry.offset)
        self._offsets = array("Q", sorted(self._offsets))
        if any(one == other for one, other in pairwise(self._offsets)):
            raise Broken("has members that lie on top of each other")

    def members(self) -> Iterator[Member]:
        """Members in the order of the directory. Raises Broken."""
        for entry in self._entries():
            kind = stat.S_IFMT(entry.mode)
            if entry.flags & _ENCRYPTED:
                raise Broken("is encrypted", entry.name)
            if kind not in (0, stat.S_IFDIR if entry.name.endswith("/") else stat.S_IFREG):
                raise Broken("is a link or a device, not a file", entry.name)
            if entry.name.endswith("/"):
                yield Member(entry.name, 0, None)
            elif entry.method not in (_STORED, _DEFLATED):
                raise Broken(f"is packed in a way that ditkit does not unpack (method {entry.method})", entry.name)
            else:
                yield Member(entry.name, entry.size, self._checked(entry))

    def _entries(self) -> Iterator[_Entry]:
        position = self._start
        for _ in range(self.count):
            self._file.seek(position)  # reading a member's content has moved it
            entry, length = _read_entry(self._file)
            position += length
            if position > self._start + self._length:
                break
            yield entry
        if position != self._start + self._length:
            raise Broken("has a damaged directory")

    def _checked(self, entry: _Entry) -> Iterator[bytes]:
        crc = length = 0
        for block in self._blocks(entry):
            crc, length = zlib.crc32(block, crc), length + len(block)
            if length > entry.size:
                raise Broken(f"is longer than the {entry.size:,} bytes that it says")
            yield block
        if length != entry.size:
            raise Broken(f"is {length:,} bytes long, not {entry.size:,} as it says")
        if crc != entry.crc:
            raise Broken("is damaged: its checksum is wrong")

    def _blocks(self, entry: _Entry) -> Iterator[bytes]:
        self._file.seek(entry.offset)
        signature, *_, name_length, extra_length = _LOCAL.unpack(_exactly(self._file, _LOCAL.size))
        if signature != b"PK\3\4" or _exactly(self._file, name_length) != entry.spelled:
            raise Broken("is damaged: its header is not where the directory says")
        self._file.seek(extra_length, 1)
        after = bisect_right(self._offsets, entry.offset)
        limit = self._offsets[after] if after < len(self._offsets) else self._start
        if self._file.tell() + entry.packed > limit:
            raise Broken("lies on top of what follows it")
        packed = _slices(self._file, entry.packed)
        return packed if entry.method == _STORED else _inflated(packed)


def _find_directory(file: BinaryIO) -> tuple[int, int, int]:
    """Start and length of the directory in bytes, and its number of entries."""
    size = file.seek(0, 2)
    tail_start = max(0, size - _END.size - _LONGEST_COMMENT)
    file.seek(tail_start)
    tail = file.read()
    at = len(tail)
    while (at := tail.rfind(b"PK\5\6", 0, at)) >= 0:
        if len(tail) - at >= _END.size and at + _END.size + _END.unpack_from(tail, at)[-1] == len(tail):
            break
    else:
        raise Broken("is cut short, or no archive: it does not end with a directory")
    _, disk, first_disk, _, count, length, start, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    if count == _COUNT_64 or _SAYS_64 in (length, start):
        file.seek(max(0, end - _PLACE_64.size))
        signature, disk, place, _ = _PLACE_64.unpack(_exactly(file, _PLACE_64.size))
        if signature != b"PK\6\7" or place > end:
            raise Broken("has a damaged directory")
        file.seek(place)
        signature, _, _, _, disk, first_disk, _, count, length, start = _END_64.unpack(_exactly(file, _END_64.size))
        if signature != b"PK\6\6":
            raise Broken("has a damaged directory")
        end = place
    if disk or first_disk:
        raise Broken("is one of several parts")
    if start + length > end or count * _ENTRY.size > length:
        raise Broken("has a damaged directory")
    return start, length, count


def _read_entry(file: BinaryIO) -> tuple[_Entry, int]:
    """The entry at the file's position, and its length there."""
    fields = _ENTRY.unpack(_exactly(file, _ENTRY.size))
    signature, _, _, flags, method, _, _, crc, packed, size = fields[:10]
    name_length, extra_length, comment_length, _, _, attributes, offset = fields[10:]
    if signature != b"PK\1\2":
        raise Broken("has a damaged directory")
    spelled, extra = _exactly(file, name_length), _exactly(file, extra_length)
    name = _decoded(spelled, flags)
    size, packed, offset = _wide(extra, [size, packed, offset], name)
    entry = _Entry(spelled, name, flags, method, crc, packed, size, attributes >> 16, offset)
    return entry, _ENTRY.size + name_length + extra_length + comment_length


def _decoded(spelled: bytes, flags: int) -> str:
    try:
        return spelled.decode("utf-8")  # also where the flag is missing: macOS forgets it
    except UnicodeDecodeError:
        return spelled.decode("utf-8", "surrogateescape") if flags & _UTF_8 else spelled.decode("cp437")


def _wide(extra: bytes, values: list[int], name: str) -> list[int]:
    """Numbers that do not fit into 32 bits are in a field of their own, in the same order."""
    if _SAYS_64 not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
            return [next(wide, value) if value == _SAYS_64 else value for value in values]
        at += 4 + length
    raise Broken("has a damaged entry in the directory", name)


def _slices(file: BinaryIO, length: int) -> Iterator[bytes]:
    while length:
        block = file.read(min(BLOCK, length))
        if not block:
            raise Broken("is cut short")
        length -= len(block)
        yield block


def _inflated(packed: Iterator[bytes]) -> Iterator[bytes]:
    unpack, pending = zlib.decompressobj(-zlib.MAX_WBITS), b""
    try:
        while not unpack.eof:
            pending = pending or next(packed, b"")
            block = unpack.decompress(pending, BLOCK)
            if not block and not pending and not unpack.eof:
                raise Broken("is cut short")
            pending = unpack.unconsumed_tail
            if block:
                yield block
    except zlib.error:
        raise Broken("is damaged: it cannot be unpacked") from None
    if unpack.unused_data or pending or next(packed, b""):
        raise Broken("is damaged: it ends before its own end")


def _exactly(file: BinaryIO, length: int) -> bytes:
    read = file.read(length)
    if len(read) != length:
        raise Broken("is cut short")
    return read
