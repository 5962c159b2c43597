"""Tables of file names and labels: .csv, .tsv, .jsonl and .json, with a header or, of two columns, without.

Every image must have a row and every row an image: a table that fits half a folder is more often a mistake than
intended, and images that are silently left out are noticed only when the training is over.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from ...errors import DataError
from ..sources.compact_names import NameTable
from ..sources.splits import split_named
from .columns import Columns, NoLabels
from .rows import Row, read_rows
from .values import Labels

_SPLIT_NUMBERS = {"0": "train", "1": "validation", "2": "test"}  # of CelebA's list of partitions
PARTS = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table's rows, column by column."""

    where: str
    files: NameTable
    lines: np.ndarray  # their numbers in the file
    labels: tuple[str, ...]
    label_ids: np.ndarray
    parts: np.ndarray | None = None  # int8, by PARTS: what a column of splits says
    notes: tuple[str, ...] = ()


def read_table(
    opener: Callable[[], IO[bytes]], where: str, label_by: str | None, file_by: str | None, *, guess: bool = True
) -> Table | None:
    """The table in a file, which `where` names in errors.

    The columns are the given ones (labels of several, parted by commas, are joined by +, attributes as in CelebA) or
    found by their names. Without a column for the labels: an error, or None when not to `guess` that of two columns
    one is it. Where the file says that there are no labels, the table has none and no rows.
    """
    columns = Columns(where=where, label_by=label_by, file_by=file_by, guess=guess)
    try:
        with opener() as file:
            rows = read_rows(file, columns)
            if rows is None:
                nothing = np.zeros(0, dtype=np.int64)
                return Table(where=where, files=NameTable(()), lines=nothing, labels=(), label_ids=nothing)
            return _table(rows, columns)
    except NoLabels:
        return None
    except OSError as error:
        hint = "check the path and its permissions"
        raise DataError(f"cannot read {where}: {error.strerror or error}", hint) from None
    except ValueError as error:
        raise DataError(f"cannot read {where}: {error}", "check the file") from None


def _table(rows: Iterator[Row], columns: Columns) -> Table:
    where, labels, lines, splits = columns.where, Labels(), array("q"), list[str | None]()

    def files() -> Iterator[bytes]:
        for row in rows:
            labels.add(row.values, f"{where}, {row.place}")
            lines.append(row.number)
            splits.append(row.split)
            name = re.sub(r"^(\./)+", "", row.file.strip().replace("\\", "/"))
            yield normalized(name.encode("utf-8", "surrogateescape"))

    names = NameTable(files())
    if not len(names):
        raise DataError(f"{where} has no rows", columns.form)
    if labels.too_many():
        raise DataError(
            f"{where} has {labels.count():,} different labels in {len(names):,} rows: hardly two images share one",
            "it is probably another column: name the right one with --label-by",
        )
    by_id, ids = labels.finish(columns.attributes())
    parts, notes = parts_of(splits, where)
    return Table(
        where=where,
        files=names,
        lines=np.array(lines, dtype=np.int64),
        labels=by_id,
        label_ids=ids,
        parts=parts,
        notes=notes,
    )


def parts_of(splits: list[str | None], where: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """What each row is for, where a column says so in words that are known; else a line about it."""
    words = {word for word in splits if word is not None}
    if not words:
        return None, ()
    known = _SPLIT_NUMBERS if words <= set(_SPLIT_NUMBERS) else {word: split_named(word) for word in words}
    unknown = [word for word in sorted(words) if known[word] is None]
    if unknown or "train" not in known.values():
        why = f"{unknown[0]!r} is no split" if unknown else "nothing in it is for training"
        return None, (f"the column of splits in {where} is not followed: {why}",)
    parts = np.array([PARTS[known[word or "train"] or "train"] for word in splits], dtype=np.int8)
    counts = np.bincount(parts, minlength=3)
    left = f"; not used: {counts[2]:,} for testing" if counts[2] else ""
    return parts, (f"splits, by the table: {counts[0]:,} to train on, {counts[1]:,} for validation{left}",)


def normalized(name: bytes) -> bytes:
    """A file's name such that two spellings of it are the same: an é may be one letter or two."""
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", name.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
