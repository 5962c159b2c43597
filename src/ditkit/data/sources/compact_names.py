"""Many names in little memory: one block of bytes, and where each name ends."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np


class NameTable:
    """Names in the bytes of the file system: four more than their letters each, where a str takes fifty."""

    def __init__(self, spelled: Iterable[bytes]):
        block, ends = bytearray(), array("q")
        for name in spelled:
            block += name
            ends.append(len(block))
        self._block = block
        self._ends = np.array(ends, dtype=np.uint32 if len(block) < 2**32 else np.uint64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> str:
        return os.fsdecode(self.raw(row))

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def raw(self, row: int) -> bytes:
        """A name's bytes."""
        return bytes(self._block[int(self._ends[row - 1]) if row else 0 : int(self._ends[row])])

    def equals(self, other: NameTable) -> bool:
        """Whether they are the same names in the same order."""
        return self._block == other._block and np.array_equal(self._ends, other._ends)

    def order(self) -> np.ndarray:
        """The rows in byte order of their names. Most archives have that order: then it takes hardly any memory."""
        rows = range(len(self))
        sorted_already = all(self.raw(row) <= self.raw(row + 1) for row in rows[:-1])
        return np.array(rows if sorted_already else sorted(rows, key=self.raw), dtype=np.int64)

    def without(self, length: int) -> NameTable:
        """The names without their first bytes."""
        return NameTable(self.raw(row)[length:] for row in range(len(self)))

    def take(self, rows: Sequence[int] | np.ndarray) -> NameTable:
        """Some of the names, in the order of `rows`."""
        if is_all(rows, len(self)):
            return self
        return NameTable(self.raw(int(row)) for row in rows)


def hashed(name: bytes) -> int:
    """A name's hash of 64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")


def hashes(names: Iterable[bytes]) -> np.ndarray:
    """The names' hashes, uint64."""
    return np.fromiter(map(hashed, names), dtype=np.uint64)


def is_all(rows: Sequence[int] | np.ndarray, length: int) -> bool:
    """Whether rows are 0, 1, 2 … to the last."""
    return len(rows) == length and bool(np.array_equal(rows, np.arange(length)))
