"""Tar archives, packed or not: the standard library, held back where it believes what an archive says."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO, Literal

from .archive_names import BLOCK, BadArchive, Member

_XZ_MEMORY = 256 << 20
_ROW = 512
_CUT = "is cut short or damaged: it cannot be unpacked"
_LONGEST_HEADERS = 16 << 10  # bytes of all that is said about one member of a tar
_ERRORS = (tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError)
_ERRORS += (ValueError, OverflowError, RuntimeError)  # the last also for what is not implemented


@contextlib.contextmanager
def as_bad_archive(why: str) -> Iterator[None]:
    """Turns what the libraries raise for damage into BadArchive; errors of the disk pass."""
    try:
        yield
    except _ERRORS as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # of seeking before the start
            raise
        raise BadArchive(why) from None


def checked(blocks: Iterable[bytes], size: int, crc: int | None = None) -> Iterator[bytes]:
    """The same blocks. Raises BadArchive for damage, another checksum (CRC-32), or another length in all."""
    length = checksum = 0
    with as_bad_archive(_CUT):
        for block in blocks:
            length, checksum = length + len(block), zlib.crc32(block, checksum)
            yield block
    if crc is not None and checksum != crc:
        raise BadArchive(_CUT)
    if length != size:
        raise BadArchive(f"is {length:,} bytes long, not {size:,} as it says")


class _Xz(io.RawIOBase):
    """What an .xz file unpacks to: `lzma.open` takes as many gigabytes of memory as the file asks for."""

    def __init__(self, file: BinaryIO):
        self._file, self._unpack = file, lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        block = b""
        while not block and not self._unpack.eof:
            packed = self._file.read(BLOCK) if self._unpack.needs_input else b""
            if self._unpack.needs_input and not packed:
                raise EOFError
            block = self._unpack.decompress(packed, len(buffer))
        buffer[: len(block)] = block
        return len(block)


UNPACKERS: dict[bytes, Callable[[BinaryIO], Any]] = {  # by a file's first bytes
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lambda file: io.BufferedReader(_Xz(file)),
}


class _Tar(io.BufferedIOBase):
    """What `tarfile` reads, which takes headers into memory whole, and any damage in them for the end."""

    def __init__(self, file: Any, most: int):
        self._file, self._most, self._left = file, most, most
        self.last = b""
        self.header_left: int | None = _LONGEST_HEADERS  # None while content comes

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1, /) -> bytes:
        if self.header_left is not None and size is not None and size > self.header_left:
            raise BadArchive("has a header that is too long, or damaged")
        self.last = block = self._file.read(size)
        self._left -= len(block)
        if self._left < 0:
            raise BadArchive(f"unpacks to more than {self._most:,} bytes, which no archive of images does")
        if self.header_left is not None:
            self.header_left -= len(block)
            # Before 3.11.10 and 3.12.6 `tarfile` takes seconds for so many numbers (CVE-2024-6232).
            if self.header_left < 0 or block.count(b" ") > 64 or re.search(rb"[0-9]{100}", block):
                raise BadArchive("has a header that is too long, or damaged")
        return block


def is_tar(row: bytes) -> bool:
    """Whether a tar may begin like this: a header with the right checksum, or the zeros of an empty one."""
    with contextlib.suppress(tarfile.HeaderError, ValueError):
        return row == bytes(_ROW) or bool(tarfile.TarInfo.frombuf(row, "utf-8", "surrogateescape"))
    return False


def tar_members(file: BinaryIO, most: int) -> Iterator[Member[Iterator[bytes]]]:
    """The members with their contents, from a file that need not be seekable.

    Each content is read before the next member is asked for. Raises BadArchive, also past `most` bytes in all.
    """
    for archive, header in _tar_headers(file, most, "r|"):
        content = archive.extractfile(header) if header.isreg() else None
        blocks = checked(iter(partial(content.read, BLOCK), b""), header.size) if content else None
        yield Member(header.name, header.size, blocks)
        for _ in blocks or ():  # of a member that was left out
            pass


def tar_places(file: BinaryIO, size: int) -> Iterator[Member[int]]:
    """The members, with the places of their contents in the file. Raises BadArchive."""
    for _, header in _tar_headers(file, size, "r:"):
        if header.offset_data + header.size > size:
            raise BadArchive(_CUT, header.name)
        yield Member(header.name, header.size, header.offset_data if header.isreg() else None)


def _tar_headers(
    file: BinaryIO, most: int, mode: Literal["r|", "r:"]
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    tar = _Tar(file, most)
    with as_bad_archive("is cut short or damaged, or it is no .tar archive"):
        archive = tarfile.open(  # noqa: SIM115
            fileobj=tar, mode=mode, bufsize=_ROW, encoding="utf-8", errors="surrogateescape"
        )
        while (header := archive.next()) is not None:
            archive.members, archive.pax_headers = [], {}  # pyright: ignore[reportAttributeAccessIssue]; they grow
            tar.header_left = None
            _check_tar_member(header)
            yield archive, header
            tar.header_left = _LONGEST_HEADERS
        if tar.last != bytes(_ROW):
            raise tarfile.ReadError
        tar.header_left = None
        while block := tar.read(BLOCK):  # to the packing's checksum
            if block.strip(b"\0"):
                raise BadArchive("is damaged: it goes on behind its end")


def _check_tar_member(header: tarfile.TarInfo) -> None:
    """Raises BadArchive for what is neither folder nor file."""
    if header.size < 0 or not header.pax_headers.get("size", "0").isdigit():
        raise BadArchive("is damaged: its size is not a number", header.name)
    if header.issparse() or any(key.startswith("GNU.sparse") for key in header.pax_headers):
        raise BadArchive("is a sparse file, which ditkit does not unpack", header.name)
    if not (header.isreg() or header.isdir()):
        raise BadArchive("is a link or a device, not a file", header.name)
