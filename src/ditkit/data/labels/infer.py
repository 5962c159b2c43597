"""Which label each image of a listing has: from a table, from files beside the images, or from the folders."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...config import DataConfig
from ...errors import DataError, UsageError, unknown
from ...io.paths import expanded
from ..decode import open_file
from ..formats import LISTED, aside, ending, spelled
from ..sources.archive import MemberSource
from ..sources.compact_names import NameTable, hashes
from ..sources.files import FileSource
from .table import LABELS, Labels, Table, normalized, read_table

TABLES = ("metadata.jsonl", "metadata.csv")  # of the hub's image folders
_BESIDE = (".cls", ".json", ".txt")  # of one image each, named like it, as in the shards of webdataset
ALL_EXTENSIONS = frozenset({*LISTED, *_BESIDE, ".jsonl", ".csv"})
_MOST_BYTES = 1 << 20  # of a file beside an image

Labelled = tuple[tuple[str, ...], np.ndarray]  # labels by id, and the id of each image


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a folder or of archives: images, and what may hold their labels."""

    where: str
    source: FileSource | MemberSource
    folders: list[bytes]  # at the top

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, extensions: Collection[str]) -> np.ndarray:
        """Those that have such extensions."""
        names = self.source.names
        matching = (ending(name) in extensions for name in names)
        return np.flatnonzero(np.fromiter(matching, dtype=bool, count=len(names)))

    def only(self, extensions: Collection[str]) -> Listing:
        """The files that have such extensions."""
        return replace(self, source=self.source.take(self.rows(extensions)))

    def keys(self) -> np.ndarray:
        """Hashes of the names up to the first dot behind the last slash: the same for files that belong together."""
        names = (os.fsencode(self.source.name(row)).rpartition(b"/") for row in range(len(self)))
        return hashes(folder + slash + name.partition(b".")[0] for folder, slash, name in names)


def find_labels(listing: Listing, images: Listing, config: DataConfig) -> Labelled:
    """The labels of the images: from the configured table, one among them, files beside them, or their folders.

    Without any of it there are no labels, and all ids are 0. Raises DitkitError for what is contradictory.
    """
    table = None
    if config.label_file is not None:
        path = expanded(config.label_file)
        table = read_table(lambda: open_file(path), str(path), config.label_by, config.image_column)
    elif (row := _table_among(listing)) is not None:
        source = listing.source
        where = source.place(row)
        table = read_table(lambda: source.open_bytes(row), where, config.label_by, config.image_column, guess=False)
    if table is not None:
        return table.labels, _matched(table, images.source.names, images.where)
    if (labels := _from_files_beside(listing, images, config.label_by)) is not None:
        return labels
    if config.label_by is not None:
        raise UsageError(
            f"there is no table in {listing.where} that could have the column {config.label_by!r}",
            "give one with --label-file, or leave out --label-by",
        )
    return _from_folders(images)


def _table_among(listing: Listing) -> int | None:
    names = {listing.source.names[int(row)]: int(row) for row in listing.rows({".jsonl", ".csv"})}
    for table in TABLES:
        if table in names:
            return names[table]
    inside = [name for name in names if name.count("/") == 1 and name.partition("/")[2] in TABLES]
    if inside:
        raise DataError(
            f"{listing.where} is several sets of images, or the folder around one: it holds {', '.join(inside[:5])}",
            f"give the folder of one: {inside[0].partition('/')[0]}",
        )
    return None


def _from_files_beside(listing: Listing, images: Listing, label_by: str | None) -> Labelled | None:
    """Labels from files named like the images; a few stray files are none."""
    for extension in _BESIDE if label_by is None else (".json",):
        beside = listing.only({extension})
        if 2 * len(beside) < len(images):
            continue
        rows = _places_of(beside.keys(), images.keys())
        missing = np.flatnonzero(rows < 0)
        if 2 * len(missing) > len(rows):
            continue
        if len(missing):
            raise DataError(
                f"{len(missing):,} of {len(rows):,} images have no {extension} file beside them, "
                f"the first is {images.source.place(int(missing[0]))}",
                "add it, or give a table of labels with --label-file",
            )
        labels = _collected(_values_beside(beside, rows, extension, label_by), optional=extension == ".txt")
        if labels is not None:
            return labels
    return None


def _values_beside(beside: Listing, rows: np.ndarray, extension: str, label_by: str | None) -> Iterator[Any]:
    """The place of each file and what makes up its label; nothing where JSON has no field of labels."""
    fields: list[str] = []
    for row in map(int, rows):
        place = beside.source.place(row)
        try:
            with beside.source.open_bytes(row) as file:
                text = file.read(_MOST_BYTES).decode("utf-8-sig")
            content = json.loads(text) if extension == ".json" else text.strip()
        except (OSError, ValueError, RecursionError, zlib.error) as error:
            raise DataError(f"cannot read {place}: {error}", "mend it or take it away") from None
        if extension == ".json":
            content = content if isinstance(content, dict) else {}
            fields = fields or _fields(list(content), label_by, place)
            if not fields:
                return
            yield place, [content.get(field) for field in fields]
        else:
            is_number = extension == ".cls" and re.fullmatch("[0-9]{1,18}", content)
            yield place, [int(content) if is_number else content]


def _fields(names: list[str], label_by: str | None, place: str) -> list[str]:
    if label_by is None:
        return [name for name in LABELS if name in names][:1]
    wanted = [name.strip() for name in label_by.split(",")]
    for name in wanted:
        if name not in names:
            raise unknown(f"field of {place}:", name, names)
    return wanted


def _collected(values: Iterator[tuple[str, Any]], *, optional: bool) -> Labelled | None:
    """`optional`: what does not look like labels is none, but captions perhaps."""
    labels = Labels()
    for place, parts in values:
        try:
            labels.add(parts, place)
        except DataError:
            if optional:
                return None
            raise
    if labels.too_many() and not optional:
        raise DataError(
            f"the files beside the images hold {labels.count():,} different labels: hardly two images share one",
            "name the field with --label-by, or give a table of labels with --label-file",
        )
    return labels.finish() if labels.count() and not labels.too_many() else None


def _from_folders(images: Listing) -> Labelled:
    names, where = images.source.names, images.where
    if not images.folders:
        return (), np.zeros(len(names), dtype=np.int64)
    loose = [row for row in range(len(names)) if b"/" not in names.raw(row)]
    if loose:
        raise DataError(
            f"{where} has class folders, but also images beside them: {len(loose)}, the first is {names[loose[0]]}",
            "move them into a class folder or out of the way",
        )
    ids = {folder: index for index, folder in enumerate(images.folders)}
    tops = (names.raw(row).partition(b"/")[0] for row in range(len(names)))
    label_ids = np.fromiter((ids[top] for top in tops), dtype=np.int64, count=len(names))
    counts = np.bincount(label_ids, minlength=len(ids))
    empty = [os.fsdecode(folder) for folder, count in zip(images.folders, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"no images in the class folder {', '.join(empty[:5])}{' …' if len(empty) > 5 else ''} of {where}"
            f"{aside(images.source.left_out)}",
            f"fill it or remove it; ditkit reads {spelled()}",
        )
    return tuple(_folder_name(folder, where) for folder in images.folders), label_ids


def _folder_name(folder: bytes, where: str) -> str:
    """A folder's name as text, whatever encoding the system has for names."""
    try:
        return folder.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(
            f"the name of the class folder {os.fsdecode(folder)!r} in {where} is not UTF-8", "rename it"
        ) from None


def _matched(table: Table, images: NameTable, place: str) -> np.ndarray:
    """The label ids of all images, whose names may be in the table without their extension.

    Raises DataError for rows without an image, images without a row, and rows that contradict each other.
    """
    rows = hashes(map(table.files.raw, range(len(table.files))))
    _check_twice(table, rows)
    whole = hashes(normalized(images.raw(row)) for row in range(len(images)))
    stems = hashes(normalized(images.raw(row)).rpartition(b".")[0] for row in range(len(images)))
    row_of = _places_of(rows, whole)
    row_of = np.where(row_of < 0, _places_of(rows, stems), row_of)
    lost = np.flatnonzero(~np.isin(rows, rows[row_of[row_of >= 0]]))
    if len(lost):
        raise DataError(
            f"{table.where}, line {table.lines[lost[0]]}: there is no image {table.files[int(lost[0])][:200]!r} "
            f"in {place}, whose first is {images[0]!r}" + (f"; {len(lost):,} rows have none" if len(lost) > 1 else ""),
            "file names are relative to the folder of images; take away the rows of images that you do not have",
        )
    missing = np.flatnonzero(row_of < 0)
    if len(missing):
        first = ", ".join(images[int(row)] for row in missing[:5]) + (" …" if len(missing) > 5 else "")
        raise DataError(
            f"{table.where} has no row for {len(missing):,} of {len(images):,} images: {first}",
            "add their rows, or move these images away",
        )
    return table.label_ids[row_of]


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


def _places_of(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where in `values` each of `wanted` is, -1 where it is not."""
    if not len(values):
        return np.full(len(wanted), -1)
    order = np.argsort(values, kind="stable")
    places = np.minimum(np.searchsorted(values[order], wanted), len(values) - 1)
    return np.where(values[order][places] == wanted, order[places], -1)
