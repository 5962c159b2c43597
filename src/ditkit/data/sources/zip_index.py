"""The directory of a .zip archive, entry by entry: `zipfile` makes half a kilobyte of objects of each."""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from .archive_names import BadArchive
from .tar import LONGEST_DIRECTORY, SHORTEST_HEADER, UTF_8, check_zip_entry

_END = struct.Struct("<4s4H2IH")  # sign, disks and entries, length and place of the directory, length of the comment
_WIDE_PLACE = struct.Struct("<4sIQI")  # where the end of 64 bits is
_WIDE_END = struct.Struct("<4sQ2H2I4Q")  # … entries, length and place of the directory
_ENTRY = struct.Struct("<4s6H3I5H2I")
_WIDE = 0xFFFFFFFF  # the number is too large for its field, and stands elsewhere
_LONGEST_COMMENT = 0xFFFF
_NO_DIRECTORY = "is cut short, or no archive: its directory cannot be read"
_DAMAGED = "has a damaged directory, or members that lie on top of each other"


@dataclass(frozen=True)
class Entry:
    """What the directory says of a member; nothing of it is to be trusted."""

    name: str
    raw: bytes  # the name, as it must be in the member's header too
    header: int  # where its own header begins
    packed: int  # bytes in the archive
    size: int  # bytes
    crc: int
    method: int  # 0: as it is; 8: deflated


def entries(file: BinaryIO) -> Iterator[Entry]:
    """The members in the order of the directory. Raises Broken, at the end for members that overlap."""
    at, end = _place(file)
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
    begins, ends = begins[order], begins[order] + lengths[order] + SHORTEST_HEADER
    if (ends[:-1] > begins[1:]).any() or (ends[-1:] > start).any():
        raise BadArchive(_DAMAGED)


def _entry(fields: tuple[int, ...], raw: bytes, extra: bytes) -> Entry:
    flags, method, crc, mode = fields[3], fields[4], fields[7], fields[15] >> 16
    try:
        name = raw.decode("utf-8")  # macOS does not say that it is
    except UnicodeDecodeError:
        if flags & UTF_8:
            raise BadArchive(_NO_DIRECTORY) from None
        name = raw.decode("cp437")
    check_zip_entry(name, flags, mode, method)
    size, packed, header = _widened((fields[9], fields[8], fields[16]), extra)
    return Entry(name, raw, header, packed, size, crc, method)


def _widened(numbers: tuple[int, ...], extra: bytes) -> list[int]:
    """The numbers, with those that did not fit into their field."""
    wide = b""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            wide = extra[4 : 4 + length]
        extra = extra[4 + length :]
    found: list[int] = []
    for number in numbers:
        if number == _WIDE and wide:
            if len(wide) < 8:
                raise BadArchive(_DAMAGED)
            number, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        found.append(number)
    if max(found) >= 2**60:
        raise BadArchive(_DAMAGED)
    return found


def _place(file: BinaryIO) -> tuple[int, int]:
    """Where the directory begins and ends. Raises Broken."""
    whole = file.seek(0, os.SEEK_END)
    tail_at = max(0, whole - _END.size - _LONGEST_COMMENT - _WIDE_PLACE.size - _WIDE_END.size)
    file.seek(tail_at)
    tail = file.read(whole - tail_at)
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
