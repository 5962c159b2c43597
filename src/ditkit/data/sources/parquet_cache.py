"""Random access to the encoded images of parquet tables, which are copied once into files in the cache.

A table packs hundreds of images together, and reading one of them costs as much as reading all; training reads in
random order.
"""

from __future__ import annotations

import io
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from ...errors import MachineError
from ...io import atomic
from ...io.locks import exclusive
from ...io.paths import NO_ROOM, cache_folder, check_room
from ...io.progress import progress
from ...io.reading import blaming_the_machine
from .files import stamp
from .location import entry_name

Blocks = Callable[[Path], Iterator[tuple[memoryview, np.ndarray]]]  # bytes of some rows, and the size of each
_SPARE = 64 << 20  # bytes of the disk that stay free


@dataclass(frozen=True)
class PackedTable:
    """The images of one table, one after the other."""

    table: Path
    path: Path
    offsets: np.ndarray  # int64 (rows + 1)


@dataclass(frozen=True)
class PackedTables:
    """The images of some tables (a Source). A row's name is its number, whatever the tables' files are called."""

    packs: tuple[PackedTable, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)  # none: a table's rows have no endings

    @cached_property
    def _firsts(self) -> list[int]:
        """The first row of each table, and the number of all rows."""
        return np.cumsum([0, *(len(pack.offsets) - 1 for pack in self.packs)]).tolist()

    @property
    def sizes(self) -> np.ndarray:
        return np.concatenate([np.diff(pack.offsets) for pack in self.packs])

    def __len__(self) -> int:
        return self._firsts[-1]

    def name(self, row: int) -> str:
        return str(row)

    def place(self, row: int) -> str:
        pack, row = self._find(row)
        return f"{pack.table}, row {row}"

    def open_bytes(self, row: int) -> IO[bytes]:
        pack, row = self._find(row)
        start, end = (int(offset) for offset in pack.offsets[row : row + 2])
        if start == end:
            raise ValueError("the row has no image")
        with pack.path.open("rb") as file:
            file.seek(start)
            content = file.read(end - start)
        if len(content) != end - start:
            raise ValueError(f"{pack.path} is cut short")
        return io.BytesIO(content)

    def _find(self, row: int) -> tuple[PackedTable, int]:
        number = bisect_right(self._firsts, row) - 1
        return self.packs[number], row - self._firsts[number]


def open_packed(root: Path, tables: Sequence[Path], column: str, blocks: Blocks) -> PackedTables:
    """The images in a column of tables below a folder, packed where they are not yet.

    Raises MachineError for the disk, and whatever `blocks` raises.
    """
    folder = cache_folder("tables") / entry_name(root.name, str(root), column)
    targets = [(table, folder / _name(table, column)) for table in tables]
    missing = [(table, target) for table, target in targets if _read(table, target) is None]
    if missing:
        try:
            _write_all(root, folder, missing, blocks)
        except OSError as error:
            raise MachineError(f"cannot write to {folder}: {error.strerror or error}", NO_ROOM) from None
    packs = [_read(table, target) for table, target in targets]
    if None in packs:
        raise MachineError(f"{folder} is being removed", "run again")
    return PackedTables(tuple(pack for pack in packs if pack is not None))


def _write_all(root: Path, folder: Path, missing: Sequence[tuple[Path, Path]], blocks: Blocks) -> None:
    done, total = 0, sum(table.stat().st_size for table, _ in missing)
    atomic.make_folder(folder)
    atomic.write_atomically(folder / "about.json", json.dumps({"source": str(root)}))
    check_room(f"unpacking {root}", folder, total + _SPARE)
    with progress(f"unpacking the images of {root} to {folder}") as show:
        for table, target in missing:
            with exclusive(target):
                if _read(table, target) is None:
                    _write(target, blocks(table))
            done += table.stat().st_size
            show(done, total)


def _name(table: Path, column: str) -> str:
    """The name of a table's pack: another one for another table at the same place."""
    return f"{entry_name(table.stem, str(table), *map(str, stamp(table)), column)}.images"


def _read(table: Path, target: Path) -> PackedTable | None:
    """The pack, if it is whole."""
    try:
        with blaming_the_machine(target):
            offsets = np.load(target.with_suffix(".npy"), allow_pickle=False)
        if offsets.dtype == np.int64 and offsets.ndim == 1 and target.stat().st_size == offsets[-1]:
            return PackedTable(table, target, offsets)
    except (OSError, ValueError, EOFError, IndexError):
        pass
    return None


def _write(target: Path, blocks: Iterator[tuple[memoryview, np.ndarray]]) -> None:
    """The images, then their offsets: without these, the pack is not whole."""
    for leftover in target.parent.glob(f".{target.stem}.*.tmp"):
        leftover.unlink()
    sizes: list[np.ndarray] = []

    def content() -> Iterator[memoryview]:
        for block, lengths in blocks:
            sizes.append(lengths)
            yield block

    atomic.write_atomically(target, content())
    index = io.BytesIO()
    np.save(index, np.cumsum([0, *np.concatenate([*sizes, np.zeros(0, np.int64)])], dtype=np.int64))
    atomic.write_atomically(target.with_suffix(".npy"), index.getvalue())
