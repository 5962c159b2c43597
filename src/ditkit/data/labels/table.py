"""Tables of file names and labels: .csv, .tsv and .jsonl, with a header or, where there are two columns, without.

Every image must have a row and every row an image: a table that fits half a folder is more often a mistake than
intended, and images that are silently left out are noticed only when the training is over.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from ...errors import DataError, unknown
from ..formats import ENDINGS, ending
from ..sources.compact_names import NameTable

# Names of columns that need not be configured, the surest first.
FILES = (
    *("file_name", "filename", "file", "image", "image_path", "path", "file_path", "filepath", "image_file"),
    *("image_name", "img", "img_path", "img_name", "image_id", "img_id", "id", "name"),
)
LABELS = ("label", "labels", "class", "class_name", "class_label", "label_name", "category", "target", "cls", "y")
_LONGEST_LINE, _LONGEST_LABEL = 1 << 20, 200
_SAMPLED = 50  # lines that must agree on what parts the columns
_FEW = 10  # labels are never too many
_FORMAT = "a table has one row an image, with the columns file_name and label"

Row = tuple[int, str, list[Any]]  # number of the line, name of the file, what makes up the label


class Labels:
    """Labels in the order of their images, which become ids in their natural order: 2 before 10."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._ids = array("q")

    def add(self, values: Sequence[Any], place: str) -> None:
        """The next image's label, `joined` from values. Raises DataError, which names the place."""
        try:
            label = joined(values)
        except ValueError as error:
            raise DataError(f"{place}: {error}", "give every image one label") from None
        self._ids.append(self._seen.setdefault(label, len(self._seen)))

    def too_many(self) -> bool:
        """Whether hardly two have the same: then they are no labels, but names or captions."""
        return len(self._seen) > max(_FEW, len(self._ids) // 2)

    def count(self) -> int:
        """How many different ones there are."""
        return len(self._seen)

    def finish(self) -> tuple[tuple[str, ...], np.ndarray]:
        """The labels by id, and the id of each image."""
        labels = sorted(self._seen, key=_natural)
        new = np.empty(len(labels), dtype=np.int64)
        new[[self._seen[label] for label in labels]] = np.arange(len(labels))
        return tuple(labels), new[np.array(self._ids, dtype=np.int64)]


def _natural(label: str) -> tuple[Any, ...]:
    """Numbers in it compare as numbers, and come before letters."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split("([0-9]+)", label)), label


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table's rows, column by column."""

    where: str
    files: NameTable
    lines: np.ndarray  # their numbers in the file
    labels: tuple[str, ...]
    label_ids: np.ndarray


def joined(values: Sequence[Any]) -> str:
    """One label of several, each text or from JSON. Raises ValueError for what cannot be one."""
    return "+".join(map(_text, values))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError("the label is empty")
    if not isinstance(value, (str, int, float)):
        raise ValueError("the label is neither text nor a number")
    text = str(value).strip()
    if len(text) > _LONGEST_LABEL:
        raise ValueError(f"the label is {len(text):,} letters long")
    return text


def read_table(
    opener: Callable[[], IO[bytes]], where: str, label_by: str | None, file_by: str | None, *, guess: bool = True
) -> Table | None:
    """The table in a file, which `where` names in errors.

    The columns are the given ones (labels of several, parted by commas, are joined by +) or found by their names.
    Without a column for the labels: an error, or None when not to `guess` that of two columns one is it.
    """
    columns = _Columns(where, label_by, file_by, guess)
    try:
        with opener() as file:
            lines, head = _lines(file, where), list[str]()
            for line in lines:
                head.append(line)
                if line.strip():
                    break
            first = head[-1].lstrip() if head else ""
            if first.startswith("<"):
                raise DataError(f"{where} is a web page, not a table", "download the file itself")
            rows = _from_json if first.startswith("{") else _from_csv
            return _table(rows(itertools.chain(head, lines), columns), where)
    except _NoLabels:
        return None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot read {where}: {why}", "check the path and its permissions") from None


def _lines(file: IO[bytes], where: str) -> Iterator[str]:
    """Lines with their ends. Raises DataError for what is no text in UTF-8."""
    hint = "save it as CSV in UTF-8, or as JSON lines"
    for number in itertools.count(1):
        line = file.readline(_LONGEST_LINE)
        if not line:
            return
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{where}, line {number}: not a text in UTF-8", hint) from None
        if "\0" in text or len(line) == _LONGEST_LINE:
            raise DataError(f"{where}, line {number}: not a line of a table", hint)
        yield text


class _NoLabels(Exception):
    """There is no column with labels, and none is named."""


@dataclass(frozen=True)
class _Columns:
    """Which columns are wanted."""

    where: str
    label_by: str | None
    file_by: str | None
    guess: bool

    def find(self, header: Sequence[str]) -> tuple[str, list[str]]:
        """The column of the files, and those of the labels. Raises DataError, UsageError, _NoLabels."""
        spelled = {_plain(name): name for name in reversed(header)}
        if self.file_by:
            file = self._named(self.file_by, header, spelled)
        else:
            file = next((spelled[name] for name in FILES if name in spelled), None)
        if file is None:
            raise DataError(f"{self.where} has no column of file names, but: {_some(header)}", _FORMAT)
        if self.label_by:
            return file, [self._named(name, header, spelled) for name in self.label_by.split(",")]
        label = next((spelled[name] for name in LABELS if name in spelled and spelled[name] != file), None)
        others = [name for name in header if name != file]
        if label is None and not self.guess:
            raise _NoLabels
        if label is None and not others:
            raise DataError(f"{self.where} has no column beside that of the file names", _FORMAT)
        if label is None and len(others) > 1:
            raise DataError(f"{self.where} has no column of labels, but: {_some(others)}", "name one with --label-by")
        return file, [label or others[0]]

    def _named(self, name: str, header: Sequence[str], spelled: dict[str, str]) -> str:
        column = name.strip() if name.strip() in header else spelled.get(_plain(name))
        if column is None:
            raise unknown(f"column of {self.where}:", name.strip(), header)
        return column


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:40] for name in names[:8])


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _from_csv(lines: Iterator[str], columns: _Columns) -> Iterator[Row]:
    sample = list(itertools.islice(lines, _SAMPLED))
    reader = csv.reader(
        itertools.chain(sample, lines), delimiter=_delimiter(sample), strict=True, skipinitialspace=True
    )
    try:
        rows = (cells for cells in reader if any(cell.strip() for cell in cells))
        first = [cell.strip() for cell in next(rows, [])]
        if len(first) < 2:
            raise DataError(f"{columns.where} has no columns parted by comma, semicolon or tab", _FORMAT)
        file, labels, is_header = _places(first, columns)
        for cells in rows if is_header else itertools.chain([first], rows):
            if len(cells) != len(first):
                raise DataError(
                    f"{columns.where}, line {reader.line_num}: {len(cells)} columns instead of {len(first)}",
                    "put what holds a comma into quotes",
                )
            yield reader.line_num, cells[file], [cells[label] for label in labels]
    except csv.Error as error:
        raise DataError(f"{columns.where}, line {reader.line_num}: {error}", "check the quotes") from None


def _places(first: list[str], columns: _Columns) -> tuple[int, list[int], bool]:
    """The columns of the file and of the labels, and whether the first row is a header; two columns need none."""
    named = {_plain(cell) for cell in first} & {*FILES, _plain(columns.file_by or "")} - {""}
    if named or columns.label_by or len(first) > 2:
        file, labels = columns.find(first)
        return first.index(file), [first.index(name) for name in labels], True
    return (1, [0], False) if _is_image(first[1]) and not _is_image(first[0]) else (0, [1], False)


def _delimiter(sample: Sequence[str]) -> str:
    """What parts the columns: of tab, semicolon and comma that which gives all lines equally many, at least two."""

    def fitness(delimiter: str) -> tuple[bool, int]:
        try:
            widths = {len(cells) for cells in csv.reader(sample, delimiter=delimiter, skipinitialspace=True) if cells}
        except csv.Error:
            return False, 0
        return len(widths) == 1 and min(widths) > 1, max(widths, default=0)

    return max("\t;,", key=fitness)


def _is_image(name: str) -> bool:
    return ending(name) in ENDINGS


def _from_json(lines: Iterator[str], columns: _Columns) -> Iterator[Row]:
    file, labels = "", list[str]()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DataError(f"{columns.where}, line {number}: not a JSON object", "write one object a line")
        if not file:
            file, labels = columns.find(list(row))
        name = row.get(file)
        if not isinstance(name, (str, int)):
            raise DataError(f"{columns.where}, line {number}: no {file!r}", "name the image in every row")
        yield number, str(name), [row.get(label) for label in labels]


def _table(rows: Iterator[Row], where: str) -> Table:
    labels, lines = Labels(), array("q")

    def files() -> Iterator[bytes]:
        for line, file, values in rows:
            labels.add(values, f"{where}, line {line}")
            lines.append(line)
            name = re.sub(r"^(\./)+", "", file.strip().replace("\\", "/"))
            yield normalized(name.encode("utf-8", "surrogateescape"))

    names = NameTable(files())
    if not len(names):
        raise DataError(f"{where} has no rows", _FORMAT)
    if labels.too_many():
        raise DataError(
            f"{where} has {labels.count():,} different labels in {len(names):,} rows: hardly two images share one",
            "it is probably another column: name the right one with --label-by",
        )
    by_id, ids = labels.finish()
    return Table(where=where, files=names, lines=np.array(lines, dtype=np.int64), labels=by_id, label_ids=ids)


def normalized(name: bytes) -> bytes:
    """A file's name such that two spellings of it are the same: an é may be one letter or two."""
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", name.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
