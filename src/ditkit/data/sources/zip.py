"""Zip archives: the directory entry by entry (`zipfile` makes half a kilobyte of objects of each), and contents."""

from __future__ import annotations

import os
import stat
import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from .archive_names import BLOCK, BadArchive, Member
from .tar import as_bad_archive, checked

STARTS = (b"PK\3\4", b"PK\5\6")  # of a file with members, and of an empty one
LONGEST_DIRECTORY = 256 << 20  # bytes: two million names of 80 letters
DEFLATED = 8  # method; the other is 0, stored as it is
HEADER = struct.Struct("<4s5H3I2H")  # of a member, before its content
_END = struct.Struct("<4s4H2IH")  # sign, disks and entries, length and place of the directory, length of the comment
_WIDE_PLACE = struct.Struct("<4sIQI")  # where the end of 64 bits is
_WIDE_END = struct.Struct("<4sQ2H2I4Q")  # … entries, length and place of the directory
_ENTRY = struct.Struct("<4s6H3I5H2I")
_WIDE = 0xFFFFFFFF  # the number is too large for its field, and stands elsewhere
_LONGEST_COMMENT = 0xFFFF
_ENCRYPTED, _UTF_8 = 0x1 | 0x40 | 0x2000, 0x800  # flags
_NO_DIRECTORY = "is cut short, or no archive: its directory cannot be read"
_DAMAGED = "has a damaged directory, or members that lie on top of each other"


@dataclass(frozen=True)
class Entry:
    """What the directory says of a member; nothing of it is to be trusted."""

    name: str
    raw_name: bytes  # its bytes, which must be in the member's own header too
    header: int  # where that header begins
    packed: int  # bytes in the archive
    size: int  # bytes
    crc: int
    method: int

    @property
    def is_folder(self) -> bool:
        return self.name.endswith("/")


def entries(file: BinaryIO) -> Iterator[Entry]:
    """The members in the order of the directory. Raises BadArchive, at the end for members that overlap."""
    at, end = _directory(file)
    start = at
    headers, packed = array("q"), array("q")
    file.seek(at)
    while at < end:
        row = file.read(_ENTRY.size)
        if len(row) < _ENTRY.size or not row.startswith(b"PK\1\2"):
            raise BadArchive(_DAMAGED)
        fields = _ENTRY.unpack(row)
        lengths = fields[10:13]
        rest = file.read(sum(lengths))
        at += _ENTRY.size + sum(lengths)
        if at > end or b"PK\1\2" in rest:  # an entry that damage has made part of another one
            raise BadArchive(_DAMAGED)
        entry = _entry(fields, rest[: lengths[0]], rest[lengths[0] : sum(lengths[:2])])
        headers.append(entry.header)
        packed.append(entry.packed)
        yield entry
    begins, lengths = np.frombuffer(headers, dtype=np.int64), np.frombuffer(packed, dtype=np.int64)
    order = np.argsort(begins, kind="stable")
    begins, ends = begins[order], begins[order] + lengths[order] + HEADER.size
    if (ends[:-1] > begins[1:]).any() or (ends[-1:] > start).any():
        raise BadArchive(_DAMAGED)


def content_start(header: bytes, name_crc: int) -> int:
    """Bytes from the beginning of a member's header to its content. Raises ValueError for another name than said."""
    if len(header) < HEADER.size or not header.startswith(b"PK\3\4"):
        raise ValueError("its header is not where the directory says")
    name, extra = HEADER.unpack_from(header)[9:]
    if zlib.crc32(header[HEADER.size : HEADER.size + name]) != name_crc:
        raise ValueError("the directory has another name for it")
    return HEADER.size + name + extra


def zip_members(file: BinaryIO, listed: Iterable[Entry]) -> Iterator[Member[Iterator[bytes]]]:
    """The members with their contents, which are read before the next member is asked for. Raises BadArchive."""
    for entry in listed:
        file.seek(entry.header)
        with as_bad_archive("is damaged: the header of one of its members is not where the directory says"):
            start = content_start(file.read(HEADER.size + len(entry.raw_name)), zlib.crc32(entry.raw_name))
        file.seek(entry.header + start)
        blocks = None if entry.is_folder else checked(_unpacked(file, entry), entry.size, entry.crc)
        yield Member(entry.name, entry.size, blocks)


def _unpacked(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """No more bytes than the entry says, whatever the content holds. Raises ValueError, zlib.error, EOFError."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    packed_left, left = entry.packed, entry.size
    while packed_left and not inflate.eof:
        packed = file.read(min(packed_left, BLOCK))
        if not packed:
            raise EOFError
        packed_left -= len(packed)
        while packed:
            block = inflate.decompress(packed, BLOCK) if entry.method == DEFLATED else packed
            packed = inflate.unconsumed_tail
            left -= len(block)
            if left < 0:
                raise ValueError
            yield block
    yield inflate.flush()


def _entry(fields: tuple[int, ...], raw_name: bytes, extra: bytes) -> Entry:
    flags, method, crc, mode = fields[3], fields[4], fields[7], fields[15] >> 16
    try:
        name = raw_name.decode("utf-8")  # macOS does not say that it is
    except UnicodeDecodeError:
        if flags & _UTF_8:
            raise BadArchive(_NO_DIRECTORY) from None
        name = raw_name.decode("cp437")
    if flags & _ENCRYPTED:
        raise BadArchive("is encrypted", name)
    if stat.S_IFMT(mode) not in (0, stat.S_IFDIR if name.endswith("/") else stat.S_IFREG):
        raise BadArchive("is a link or a device, not a file", name)
    if method not in (0, DEFLATED):
        raise BadArchive(f"is packed in a way that ditkit does not unpack (method {method})", name)
    size, packed, header = _widened((fields[9], fields[8], fields[16]), extra)
    return Entry(name, raw_name, header, packed, size, crc, method)


def _widened(numbers: tuple[int, ...], extra: bytes) -> list[int]:
    """The numbers, with those that did not fit into their field."""
    wide = b""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            wide = extra[4 : 4 + length]
        extra = extra[4 + length :]
    widened: list[int] = []
    for number in numbers:
        if number == _WIDE and wide:
            if len(wide) < 8:
                raise BadArchive(_DAMAGED)
            number, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        widened.append(number)
    if max(widened) >= 2**60:
        raise BadArchive(_DAMAGED)
    return widened


def _directory(file: BinaryIO) -> tuple[int, int]:
    """Where the directory begins and ends. Raises BadArchive."""
    size = file.seek(0, os.SEEK_END)
    tail_at = max(0, size - _END.size - _LONGEST_COMMENT - _WIDE_PLACE.size - _WIDE_END.size)
    file.seek(tail_at)
    tail = file.read(size - tail_at)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + _END.size or len(tail) < at + _END.size + _END.unpack_from(tail, at)[7]:
        raise BadArchive(_NO_DIRECTORY)
    length, start = _END.unpack_from(tail, at)[5:7]
    if at >= _WIDE_PLACE.size + _WIDE_END.size and tail[at - _WIDE_PLACE.size :].startswith(b"PK\6\7"):
        at -= _WIDE_PLACE.size + _WIDE_END.size
        if not tail[at:].startswith(b"PK\6\6"):
            raise BadArchive(_NO_DIRECTORY)
        length, start = _WIDE_END.unpack_from(tail, at)[8:10]
    if length > LONGEST_DIRECTORY:
        raise BadArchive("has a directory that is too long")
    if start + length != tail_at + at:
        raise BadArchive(_DAMAGED)
    return start, start + length
