"""Reading .tar archives, packed or not, from the first byte to the last (POSIX pax, GNU long names).

Own code around `tarfile.TarInfo.frombuf`, because `tarfile` takes a damaged header in the middle for the end.
"""

from __future__ import annotations

import bz2
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from .members import BLOCK, Broken, Member

_ROW = 512
_END = bytes(_ROW)
_LONGEST_NOTE = 1 << 16  # bytes of a long name or of a header that extends the next one
_XZ_MEMORY = 256 << 20
_NOTES = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_LINKS = {tarfile.LNKTYPE, tarfile.SYMTYPE}
PACKINGS: dict[bytes, Callable[[], Any]] = {  # first bytes -> what unpacks the rest
    b"\x1f\x8b": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
}


def is_header(row: bytes) -> bool:
    """Whether a tar archive may begin like this: a header with the right checksum, or the zeros of an empty one."""
    try:
        if row != _END:
            tarfile.TarInfo.frombuf(row, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def members(file: BinaryIO, most: int) -> Iterator[Member]:
    """Members in their order, from the file's beginning. Raises Broken, also past `most` bytes in all."""
    stream = _Stream(_unpacked(file), most)
    extended: dict[str, Any] = {}
    while (header := _read_header(stream)) is not None:
        if header.type in _NOTES:
            extended |= _read_note(header, stream)
            continue
        name, size = extended.get("path", header.name), extended.get("size", header.size)
        extended = {}
        if header.type == tarfile.DIRTYPE:
            yield Member(name, 0, None)
            continue
        if header.type in _LINKS:
            raise Broken("is a link, not a file", name)
        if header.type not in _FILES:
            raise Broken("is a device, a pipe or something else that is not a file", name)
        if size < 0:
            raise Broken("is damaged: its size is negative", name)
        content = stream.slices(size)
        yield Member(name, size, content)
        for _ in content:  # what was not asked for
            pass
        stream.skip(-size % _ROW)
    stream.skip(None)  # the packing's checksum comes last


def _read_header(stream: _Stream) -> tarfile.TarInfo | None:
    """The next header; None at the end."""
    row = stream.read(_ROW)
    if len(row) < _ROW:
        raise Broken("is cut short: it has no end")
    try:
        return None if row == _END else tarfile.TarInfo.frombuf(row, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        raise Broken("is damaged: a header's checksum is wrong, or it is no .tar archive") from None


def _read_note(header: tarfile.TarInfo, stream: _Stream) -> dict[str, Any]:
    """What a header says about the member that follows it: its `path` or `size`."""
    if not 0 <= header.size <= _LONGEST_NOTE:
        raise Broken("has a header that is too long", header.name)
    note = stream.read(header.size)
    stream.skip(-header.size % _ROW)
    if len(note) != header.size:
        raise Broken("is cut short")
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": note.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    if header.type == tarfile.GNUTYPE_LONGLINK:
        return {}
    records = dict(_records(note))
    if any(key.startswith("GNU.sparse") for key in records):
        raise Broken("is a sparse file, which ditkit does not unpack", header.name)
    known: dict[str, Any] = {key: value for key, value in records.items() if key in ("path", "size")}
    if known and header.type == tarfile.XGLTYPE:
        raise Broken("gives all its members one name or size", header.name)
    if "size" in known and not (known["size"].isascii() and known["size"].isdigit() and len(known["size"]) < 20):
        raise Broken("is damaged: its size is no number", header.name)
    return {key: int(value) if key == "size" else value for key, value in known.items()}


def _records(note: bytes) -> Iterator[tuple[str, str]]:
    """`length key=value` and a line end, again and again."""
    while note.strip(b"\0"):
        length, space, _ = note.partition(b" ")
        if not (space and length.isdigit() and len(length) < 7 and len(length) + 2 < int(length) <= len(note)):
            raise Broken("has a damaged header")
        record, note = note[: int(length)], note[int(length) :]
        key, _, value = record[len(length) + 1 : -1].partition(b"=")
        yield key.decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape")


class _Stream:
    """Bytes in order, never more of them than allowed."""

    def __init__(self, blocks: Iterator[bytes], most: int):
        self._blocks, self._left, self._most = blocks, most, most
        self._ahead = memoryview(b"")

    def read(self, length: int) -> bytes:
        """That many bytes; fewer at the end."""
        return b"".join(self._some(length))

    def slices(self, length: int) -> Iterator[bytes]:
        """That many bytes in slices of at most a block. Raises Broken when there are fewer."""
        for block in self._some(length):
            length -= len(block)
            yield block
        if length:
            raise Broken("is cut short")

    def skip(self, length: int | None) -> None:
        """Read over that many bytes, or all that are left."""
        for _ in self._some(1 << 63 if length is None else length):
            pass

    def _some(self, length: int) -> Iterator[bytes]:
        while length:
            if not self._ahead:
                self._ahead = memoryview(next(self._blocks, b""))
                self._left -= len(self._ahead)
                if self._left < 0:
                    raise Broken(f"unpacks to more than {self._most:,} bytes, which no archive of images does")
                if not self._ahead:
                    return
            block, self._ahead = bytes(self._ahead[:length]), self._ahead[length:]
            length -= len(block)
            yield block


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """What the file holds, once what packed it is taken off."""
    start = file.read(BLOCK)
    packing = next((unpacker for first, unpacker in PACKINGS.items() if start.startswith(first)), None)
    try:
        if packing is None:
            yield start
            yield from iter(lambda: file.read(BLOCK), b"")
        while packing is not None and start:
            start = yield from _one_unpacked(packing(), start, file)
            while start and not (start := start.lstrip(b"\0")):  # padding is allowed between and after
                start = file.read(BLOCK)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # of the disk, not of bz2
        raise Broken("is damaged: it cannot be unpacked") from None


def _one_unpacked(unpack: Any, pending: bytes, file: BinaryIO) -> Any:
    """What one packed stream holds; returns what follows it."""
    while not unpack.eof:
        block = unpack.decompress(pending, BLOCK)
        pending = getattr(unpack, "unconsumed_tail", b"")
        if block:
            yield block
        elif not pending and not unpack.eof:
            pending = file.read(BLOCK)
            if not pending:
                raise Broken("is cut short")
    return unpack.unused_data or file.read(BLOCK)
