"""Members of .zip and .tar archives as images, without unpacking: where each lies, and reading it there."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from .archives import readable
from .names import Names
from .readers import is_tar

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
    names: Names  # within the archive, without a folder that holds everything
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
