"""Reading .zip and .tar archives: the standard library, held back where it believes what an archive says."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO, Literal

from .archive_names import BLOCK, BadArchive, Member

LONGEST_DIRECTORY = 256 << 20  # bytes: two million names of 80 letters
SHORTEST_HEADER = 30  # bytes between one member's content and the next one's
_ENCRYPTED, UTF_8 = 0x1 | 0x40 | 0x2000, 0x800
_XZ_MEMORY = 256 << 20
_ROW = 512
_LONGEST_HEADERS = 16 << 10  # bytes of all that is said about one member of a tar
_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError)
_ERRORS += (ValueError, OverflowError, RuntimeError)  # the last also for what is not implemented


@contextlib.contextmanager
def _saying(why: str) -> Iterator[None]:
    """Turns what the libraries raise for damage into Broken; errors of the disk pass."""
    try:
        yield
    except _ERRORS as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # of seeking before the start
            raise
        raise BadArchive(why) from None


def _content(file: IO[bytes], size: int) -> Iterator[bytes]:
    length = 0
    with _saying("is cut short or damaged: it cannot be unpacked"):
        while block := file.read(BLOCK):
            length += len(block)
            yield block
    if length != size:
        raise BadArchive(f"is {length:,} bytes long, not {size:,} as it says")


class _Zip(io.BufferedReader):
    """What `zipfile` reads, which takes a directory into memory whole, however long, and overlooks damage in it."""

    def __init__(self, file: BinaryIO, most: int):
        super().__init__(io.FileIO(file.fileno(), closefd=False))
        self.entries, self._most = 0, most

    def read(self, size: int | None = -1, /) -> bytes:
        if size and size > LONGEST_DIRECTORY:
            raise BadArchive("has a directory that is too long")
        block = super().read(size)
        self.entries = block.count(b"PK\1\2")  # once `zipfile` has opened it, of the directory
        if self.entries > self._most:
            raise BadArchive(f"has more than {self._most:,} members")
        return block


def open_zip(file: BinaryIO, most: int) -> zipfile.ZipFile:
    """A zip whose directory is sound. Raises Broken, also for more than `most` members."""
    with _saying("is cut short, or no archive: its directory cannot be read"):
        archive = zipfile.ZipFile(whole := _Zip(file, most))
    end, sound = 0, len(archive.infolist()) == whole.entries
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
        sound = sound and entry.header_offset >= end
        end = entry.header_offset + SHORTEST_HEADER + entry.compress_size
    if not sound or end > archive.start_dir:
        raise BadArchive("has a damaged directory, or members that lie on top of each other")
    return archive


def check_zip_entry(name: str, flags: int, mode: int, method: int) -> None:
    """Raises Broken for a member that is neither folder nor file, or cannot be unpacked."""
    if flags & _ENCRYPTED:
        raise BadArchive("is encrypted", name)
    if stat.S_IFMT(mode) not in (0, stat.S_IFDIR if name.endswith("/") else stat.S_IFREG):
        raise BadArchive("is a link or a device, not a file", name)
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # `zipfile` bounds no other
        raise BadArchive(f"is packed in a way that ditkit does not unpack (method {method})", name)


def zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    """Members in the order of the directory. Raises Broken."""
    for entry in archive.infolist():
        name = entry.orig_filename
        if not entry.flag_bits & UTF_8:
            with contextlib.suppress(UnicodeError):
                name = name.encode("cp437").decode("utf-8")  # macOS does not say that it is
        folder = name.endswith("/")
        check_zip_entry(name, entry.flag_bits, entry.external_attr >> 16, entry.compress_type)
        with _saying("is damaged: the header of one of its members is not where the directory says"):
            file = archive.open(entry)
        with file:
            yield Member(name, entry.file_size, None if folder else _content(file, entry.file_size))


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


def tar_members(file: BinaryIO, most: int) -> Iterator[Member]:
    """Members in their order, from a file that need not be seekable. Raises Broken, also past `most` bytes in all."""
    for archive, member in _tar_headers(file, most, "r|"):
        content = archive.extractfile(member) if member.isreg() else None
        blocks = content and _content(content, member.size)
        yield Member(member.name, member.size, blocks)
        for _ in blocks or ():  # what was not asked for
            pass


def tar_places(file: BinaryIO, size: int) -> Iterator[tuple[str, int | None, int]]:
    """Name, place of the content in the file (None for a folder) and size of each member, in their order."""
    for _, member in _tar_headers(file, size, "r:"):
        if member.offset_data + member.size > size:
            raise BadArchive("is cut short or damaged: it cannot be unpacked", member.name)
        yield member.name, member.offset_data if member.isreg() else None, member.size


def _tar_headers(
    file: BinaryIO, most: int, mode: Literal["r|", "r:"]
) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    tar = _Tar(file, most)
    with _saying("is cut short or damaged, or it is no .tar archive"):
        archive = tarfile.open(  # noqa: SIM115
            fileobj=tar, mode=mode, bufsize=_ROW, encoding="utf-8", errors="surrogateescape"
        )
        while (member := archive.next()) is not None:
            archive.members, archive.pax_headers = [], {}  # pyright: ignore[reportAttributeAccessIssue]; they grow
            tar.header_left = None
            _check_tar_member(member)
            yield archive, member
            tar.header_left = _LONGEST_HEADERS
        if tar.last != bytes(_ROW):
            raise tarfile.ReadError
        tar.header_left = None
        while block := tar.read(BLOCK):  # to the packing's checksum
            if block.strip(b"\0"):
                raise BadArchive("is damaged: it goes on behind its end")


def _check_tar_member(member: tarfile.TarInfo) -> None:
    """Raises Broken for what is neither folder nor file."""
    if member.size < 0 or not member.pax_headers.get("size", "0").isdigit():
        raise BadArchive("is damaged: its size is no number", member.name)
    if member.issparse() or any(key.startswith("GNU.sparse") for key in member.pax_headers):
        raise BadArchive("is a sparse file, which ditkit does not unpack", member.name)
    if not (member.isreg() or member.isdir()):
        raise BadArchive("is a link or a device, not a file", member.name)
