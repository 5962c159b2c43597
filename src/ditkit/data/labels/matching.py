"""Which row of a table belongs to which image, whatever folders their names begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import DataError
from ..sources.compact_names import NameTable, hashes
from .listing import Labelled, Listing, common_start, places_of
from .table import Table, normalized

_MOST_FOLDERS = 12  # that names may begin with


def matched(table: Table, images: Listing, needed: np.ndarray) -> Labelled:
    """The label ids of the images, whose names may be in the table without their extension.

    Names may also begin with folders that the other ones do not have. `needed` are the images that must have a row,
    bool (N,). Raises DataError for rows without an image, images without a row, and rows that contradict each other.
    """
    match = _best(table.files, images.source.names, needed)
    _check_twice(table, match.rows)
    row_of = match.row_of
    lost = np.flatnonzero(~np.isin(match.rows, match.rows[row_of[row_of >= 0]]))
    if len(lost):
        raise DataError(
            f"{table.where}, line {table.lines[lost[0]]}: there is no image {table.files[int(lost[0])][:200]!r} "
            f"in {images.where}, whose first is {images.source.names[0]!r}"
            + (f"; {len(lost):,} rows have none" if len(lost) > 1 else ""),
            "file names are relative to the folder of images; take away the rows of images that you do not have",
        )
    missing = np.flatnonzero(needed & (row_of < 0))
    if len(missing):
        first = ", ".join(images.source.names[int(row)] for row in missing[:5]) + (" …" if len(missing) > 5 else "")
        raise DataError(
            f"{table.where} has no row for {len(missing):,} of {len(images):,} images: {first}",
            "add their rows, or move these images away",
        )
    ids = np.append(table.label_ids, -1)[row_of]  # at -1, of an image without a row
    parts = None if table.parts is None else np.append(table.parts, table.parts[0])[row_of]
    return Labelled(labels=table.labels, label_ids=ids, origin=f"from {table.where}", parts=parts, notes=table.notes)


@dataclass(frozen=True)
class _Match:
    rows: np.ndarray  # hashes of the table's names
    row_of: np.ndarray  # the row of each image, or -1

    @property
    def hits(self) -> int:
        return int((self.row_of >= 0).sum())


def _best(files: NameTable, images: NameTable, needed: np.ndarray) -> _Match:
    """The match with the most images that have a row: of names as they are, without what they begin with, or bare."""
    best = _match(files, images, _whole, _whole)
    if best.hits:
        return best
    around_rows, around_images = _common(files, np.ones(len(files), dtype=bool)), _common(images, needed)
    for of_row in range(around_rows + 1):
        for of_image in range(around_images + 1):
            match = _match(files, images, _without(of_row), _without(of_image))
            best = match if match.hits > best.hits else best
    if not best.hits:
        bare = _match(files, images, _bare, _bare)
        is_unique = len(np.unique(hashes(_bare(name) for name in _raw(images)))) == len(images)
        best = bare if is_unique else best
    return best


def _match(
    files: NameTable, images: NameTable, of_row: Callable[[bytes], bytes], of_image: Callable[[bytes], bytes]
) -> _Match:
    rows = hashes(map(of_row, _raw(files)))
    row_of = places_of(rows, hashes(of_image(normalized(name)) for name in _raw(images)))
    stems = hashes(of_image(normalized(name)).rpartition(b".")[0] for name in _raw(images))
    return _Match(rows, np.where(row_of < 0, places_of(rows, stems), row_of))


def _raw(names: NameTable) -> Iterator[bytes]:
    return map(names.raw, range(len(names)))


def _whole(name: bytes) -> bytes:
    return name


def _bare(name: bytes) -> bytes:
    return name.rpartition(b"/")[2]


def _without(folders: int) -> Callable[[bytes], bytes]:
    """A name without its first folders."""

    def stripped(name: bytes) -> bytes:
        return b"/".join(name.split(b"/")[folders:])

    return stripped


def _common(names: NameTable, chosen: np.ndarray) -> int:
    """How many folders all chosen names begin with."""
    folders = {names.raw(int(row)).rpartition(b"/")[0] for row in np.flatnonzero(chosen)}
    common = common_start([tuple(folder.split(b"/")) if folder else () for folder in folders])
    return min(len(common), _MOST_FOLDERS)


def _check_twice(table: Table, rows: np.ndarray) -> None:
    order = np.argsort(rows, kind="stable")
    before, after = order[:-1], order[1:]
    torn = np.flatnonzero((rows[before] == rows[after]) & (table.label_ids[before] != table.label_ids[after]))
    if len(torn):
        first, second = int(before[torn[0]]), int(after[torn[0]])
        labels = [table.labels[table.label_ids[row]] for row in (first, second)]
        raise DataError(
            f"{table.where}, line {table.lines[second]}: {table.files[second]!r} is {labels[1]!r}, "
            f"but line {table.lines[first]} says {labels[0]!r}",
            "leave one row an image",
        )
