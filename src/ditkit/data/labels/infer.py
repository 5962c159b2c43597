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
from ..decode import EXTENSIONS, open_file
from ..sources.archive import MemberSource
from ..sources.compact_names import NameTable, hashes
from ..sources.files import FileSource
from .table import LABELS, Labels, Table, joined, read, same

TABLES = ("metadata.jsonl", "metadata.csv")  # of the hub's image folders
_BESIDE = (".cls", ".json", ".txt")  # of one image each, named like it, as in the shards of webdataset
ALL_EXTENSIONS = frozenset({*EXTENSIONS, *_BESIDE, ".jsonl", ".csv"})
_MOST_BYTES = 1 << 20  # of a file beside an image

Labelled = tuple[tuple[str, ...], np.ndarray]  # labels by id, and the id of each image


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What was found in a place: images, and what may hold their labels."""

    where: str
    source: FileSource | MemberSource
    names: NameTable  # within the folder or archive
    sizes: np.ndarray  # bytes
    shards: np.ndarray  # which of several archives each is in
    folders: list[bytes]  # at the top

    def rows(self, extensions: Collection[str]) -> np.ndarray:
        """Those that have such extensions."""
        every = (os.path.splitext(name)[1].lower() in extensions for name in self.names)  # noqa: PTH122
        return np.flatnonzero(np.fromiter(every, dtype=bool, count=len(self.names)))

    def take(self, rows: np.ndarray) -> Listing:
        """Some of it."""
        if len(rows) == len(self.names):
            return self
        return replace(
            self,
            source=self.source.take(rows),
            names=self.names.take(rows),
            sizes=self.sizes[rows],
            shards=self.shards[rows],
        )

    def keys(self) -> np.ndarray:
        """Hashes of the names up to the first dot behind the last slash: the same for files that belong together."""
        parts = (self.names.raw(row).rpartition(b"/") for row in range(len(self.names)))
        stems = (folder + slash + name.partition(b".")[0] for folder, slash, name in parts)
        return hashes(b"%d/%b" % (shard, stem) for shard, stem in zip(self.shards, stems, strict=True))


def labelled(listing: Listing, images: Listing, config: DataConfig) -> Labelled:
    """The labels of the images: from the given table, from one among them, from files beside them, or their folders.

    Without any of it there are no labels, and all ids are 0. Raises DitkitError for what is contradictory.
    """
    table = None
    if config.label_file is not None:
        path = expanded(config.label_file)
        table = read(lambda: open_file(path), str(path), label_by=config.label_by, file_by=config.image_column)
    elif (row := _table_among(listing)) is not None:
        table = read(
            lambda: listing.source.opened(row),
            listing.source.place(row),
            label_by=config.label_by,
            file_by=config.image_column,
            guess=False,
        )
    if table is not None:
        return table.labels, matched(table, images.names, images.where)
    if (found := _beside(listing, images, config.label_by)) is not None:
        return found
    if config.label_by is not None:
        raise UsageError(
            f"there is no table in {listing.where} that could have the column {config.label_by!r}",
            "give one with --label-file, or leave out --label-by",
        )
    return _from_folders(images)


def _table_among(listing: Listing) -> int | None:
    rows = listing.rows({".jsonl", ".csv"})
    names = {listing.names[int(row)]: int(row) for row in rows}
    for table in TABLES:
        if table in names:
            return names[table]
    inside = [name for name in names if name.count("/") == 1 and name.endswith(tuple(f"/{table}" for table in TABLES))]
    if inside:
        raise DataError(
            f"{listing.where} is several sets of images, or the folder around one: it holds {', '.join(inside[:5])}",
            f"give the folder of one: {inside[0].partition('/')[0]}",
        )
    return None


def _beside(listing: Listing, images: Listing, label_by: str | None) -> Labelled | None:
    """Labels from files named like the images; a few stray files are none."""
    for extension in _BESIDE if label_by is None else (".json",):
        rows = listing.rows({extension})
        if 2 * len(rows) < len(images.names):
            continue
        beside = listing.take(rows)
        found = places_of(beside.keys(), images.keys())
        missing = np.flatnonzero(found < 0)
        if 2 * len(missing) > len(found):
            continue
        if len(missing):
            raise DataError(
                f"{len(missing):,} of {len(found):,} images have no {extension} file beside them, "
                f"the first is {images.source.place(int(missing[0]))}",
                "add it, or give a table of labels with --label-file",
            )
        texts = _texts(beside, found, extension, label_by)
        labels = _collected(texts, optional=extension == ".txt")
        if labels is not None:
            return labels
    return None


def _texts(beside: Listing, rows: np.ndarray, extension: str, label_by: str | None) -> Iterator[tuple[str, Any]]:
    """Where each label stands, and the label; nothing where JSON has no field that is one."""
    fields: list[str] = []
    for row in map(int, rows):
        place = beside.source.place(row)
        try:
            with beside.source.opened(row) as file:
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
            whole = extension == ".cls" and re.fullmatch("[0-9]{1,18}", content)
            yield place, [int(content) if whole else content]


def _fields(known: list[str], label_by: str | None, place: str) -> list[str]:
    if label_by is None:
        return [name for name in LABELS if name in known][:1]
    wanted = [name.strip() for name in label_by.split(",")]
    for name in wanted:
        if name not in known:
            raise unknown(f"field of {place}:", name, known)
    return wanted


def _collected(texts: Iterator[tuple[str, Any]], *, optional: bool) -> Labelled | None:
    """`optional`: what does not look like labels is none, but captions perhaps."""
    labels = Labels()
    for place, values in texts:
        try:
            labels.add(joined(values))
        except ValueError as error:
            if optional:
                return None
            raise DataError(f"{place}: {error}", "give every image one label") from None
    if labels.too_many() and not optional:
        raise DataError(
            f"the files beside the images hold {labels.count():,} different labels: hardly two images share one",
            "name the field with --label-by, or give a table of labels with --label-file",
        )
    return labels.finish() if labels.count() and not labels.too_many() else None


def _from_folders(images: Listing) -> Labelled:
    names, where = images.names, images.where
    every = range(len(names))
    if not images.folders:
        return (), np.zeros(len(names), dtype=np.int64)
    loose = [row for row in every if b"/" not in names.raw(row)]
    if loose:
        raise DataError(
            f"{where} has class folders, but also images beside them: {len(loose)}, the first is {names[loose[0]]}",
            "move them into a class folder or out of the way",
        )
    ids = {folder: index for index, folder in enumerate(images.folders)}
    label_ids = np.fromiter((ids[names.raw(row).partition(b"/")[0]] for row in every), dtype=np.int64, count=len(names))
    counts = np.bincount(label_ids, minlength=len(ids))
    empty = [os.fsdecode(folder) for folder, count in zip(images.folders, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"no images in the class folder {', '.join(empty[:5])}{' …' if len(empty) > 5 else ''} of {where}",
            f"fill it or remove it; ditkit reads {' '.join(sorted(EXTENSIONS))}",
        )
    return tuple(_spelled(folder, where) for folder in images.folders), label_ids


def _spelled(folder: bytes, where: str) -> str:
    """A folder's name as text, whatever encoding the system has for names."""
    try:
        return folder.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(
            f"the name of the class folder {os.fsdecode(folder)!r} in {where} is not UTF-8", "rename it"
        ) from None


def matched(table: Table, images: NameTable, place: str) -> np.ndarray:
    """The label ids of all images, whose names may be in the table without their extension.

    Raises DataError for rows without an image, images without a row, and rows that contradict each other.
    """
    rows = hashes(map(table.files.raw, range(len(table.files))))
    _check_twice(table, rows)
    whole = hashes(same(images.raw(row)) for row in range(len(images)))
    stems = hashes(same(images.raw(row)).rpartition(b".")[0] for row in range(len(images)))
    found = places_of(rows, whole)
    found = np.where(found < 0, places_of(rows, stems), found)
    lost = np.flatnonzero(~np.isin(rows, rows[found[found >= 0]]))
    if len(lost):
        raise DataError(
            f"{table.where}, line {table.lines[lost[0]]}: there is no image {table.files[int(lost[0])][:200]!r} "
            f"in {place}, whose first is {images[0]!r}" + (f"; {len(lost):,} rows have none" if len(lost) > 1 else ""),
            "file names are relative to the folder of images; take away the rows of images that you do not have",
        )
    missing = np.flatnonzero(found < 0)
    if len(missing):
        first = ", ".join(images[int(row)] for row in missing[:5]) + (" …" if len(missing) > 5 else "")
        raise DataError(
            f"{table.where} has no row for {len(missing):,} of {len(images):,} images: {first}",
            "add their rows, or move these images away",
        )
    return table.label_ids[found]


def _check_twice(table: Table, rows: np.ndarray) -> None:
    order = np.argsort(rows, kind="stable")
    before, after = order[:-1], order[1:]
    torn = np.flatnonzero((rows[before] == rows[after]) & (table.label_ids[before] != table.label_ids[after]))
    if len(torn):
        one, other = int(before[torn[0]]), int(after[torn[0]])
        said = [table.labels[table.label_ids[row]] for row in (one, other)]
        raise DataError(
            f"{table.where}, line {table.lines[other]}: {table.files[other]!r} is {said[1]!r}, "
            f"but line {table.lines[one]} says {said[0]!r}",
            "leave one row an image",
        )


def places_of(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where in `known` each of `wanted` is, -1 where it is not."""
    if not len(known):
        return np.full(len(wanted), -1)
    order = np.argsort(known, kind="stable")
    places = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    return np.where(known[order][places] == wanted, order[places], -1)
