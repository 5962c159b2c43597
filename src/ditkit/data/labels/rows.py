"""The rows of a table in CSV, JSON lines or JSON: file names and what makes up their labels."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from ...errors import DataError
from ..formats import ENDINGS, ending
from .columns import FILES, FORMAT, Columns, plain

_LONGEST_LINE, _MOST_JSON = 1 << 20, 1 << 30  # bytes
_SAMPLED = 50  # lines that must agree on what parts the columns
_HEAD = 1 << 12  # bytes that tell the format
_FIRST_KEY = re.compile(r'\{\s*"((?:[^"\\]|\\.)*)"\s*:\s*(.?)')
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Row:
    """One image's."""

    number: int
    file: str
    values: Sequence[Any]  # what makes up the label
    split: str | None = None
    unit: str = "line"

    @property
    def place(self) -> str:
        """Where it is in the table."""
        return f"{self.unit} {self.number}"


def read_rows(file: IO[bytes], columns: Columns) -> Iterator[Row] | None:
    """The rows of a file; None where it says that its images have no labels. Raises DataError for what is no table."""
    head = file.read(_HEAD).removeprefix(_BOM).decode("utf-8", "replace").lstrip()
    file.seek(0)
    if head.startswith("<"):
        raise DataError(f"{columns.where} is a web page, not a table", "download the file itself")
    if head.startswith("[") or _is_whole(head):
        return _from_json(_parsed(file, columns.where), columns)
    lines = _lines(file, columns.where)
    return _from_json_lines(lines, columns) if head.startswith("{") else _from_csv(lines, columns)


def _is_whole(head: str) -> bool:
    """Whether JSON begins that is one object of all images, not a line for each."""
    first = _FIRST_KEY.match(head)
    if first is None:
        return False
    return _is_image(first[1]) or (first[1] == "labels" and first[2] in "[{n")


def _lines(file: IO[bytes], where: str) -> Iterator[str]:
    """Lines with their ends. Raises DataError for what is no text in UTF-8."""
    hint = "save it as CSV in UTF-8, or as JSON lines"
    for number in itertools.count(1):
        line = file.readline(_LONGEST_LINE)
        if not line:
            return
        if number == 1:
            line = line.removeprefix(_BOM)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{where}, line {number}: not a text in UTF-8", hint) from None
        if "\0" in text or len(line) == _LONGEST_LINE:
            raise DataError(f"{where}, line {number}: not a line of a table", hint)
        yield text


def _from_csv(lines: Iterator[str], columns: Columns) -> Iterator[Row]:
    sample = list(itertools.islice(lines, _SAMPLED))
    told = re.fullmatch(r"\ufeff?\s*\"?sep=(.)\"?\s*", sample[0], re.IGNORECASE) if sample else None  # by Excel
    sample[: 1 if told else 0] = ["\n"] if told else []
    delimiter = told[1] if told else _delimiter(sample)
    reader = csv.reader(itertools.chain(sample, lines), delimiter=delimiter, strict=True, skipinitialspace=True)
    try:
        rows = (cells for cells in reader if any(cell.strip() for cell in cells))
        first = [cell.strip() for cell in next(rows, [])]
        if len(first) < 2:
            raise DataError(f"{columns.where} has no columns parted by comma, semicolon or tab", FORMAT)
        file, labels, split, is_header = _places(first, columns)
        for cells in rows if is_header else itertools.chain([first], rows):
            if len(cells) != len(first):
                raise DataError(
                    f"{columns.where}, line {reader.line_num}: {len(cells)} columns instead of {len(first)}",
                    "put what holds a comma into quotes",
                )
            word = cells[split].strip().lower() if split is not None else None
            yield Row(reader.line_num, cells[file], [cells[label] for label in labels], word)
    except csv.Error as error:
        raise DataError(f"{columns.where}, line {reader.line_num}: {error}", "check the quotes") from None


def _places(first: list[str], columns: Columns) -> tuple[int, list[int], int | None, bool]:
    """The columns of the file, of the labels and of the split, and whether the first row is a header.

    Two columns need none.
    """
    named = {plain(cell) for cell in first} & {*FILES, plain(columns.file_by or "")} - {""}
    if named or columns.label_by or len(first) > 2:
        chosen = columns.find(first)
        split = None if chosen.split is None else first.index(chosen.split)
        return first.index(chosen.file), [first.index(name) for name in chosen.labels], split, True
    return (1, [0], None, False) if _is_image(first[1]) and not _is_image(first[0]) else (0, [1], None, False)


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


def _from_json_lines(lines: Iterator[str], columns: Columns) -> Iterator[Row]:
    def objects() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError):
                    yield number, None

    return _from_objects(objects(), columns, "line", "write one object a line")


def _from_objects(objects: Iterable[tuple[int, Any]], columns: Columns, unit: str, hint: str) -> Iterator[Row]:
    chosen = None
    for number, row in objects:
        place = f"{columns.where}, {unit} {number}"
        if not isinstance(row, dict):
            raise DataError(f"{place}: not a JSON object", hint)
        chosen = chosen or columns.find(list(row))
        name = row.get(chosen.file)
        if not isinstance(name, (str, int)):
            raise DataError(f"{place}: no {chosen.file!r}", "name the image in every row")
        split = None if chosen.split is None else str(row.get(chosen.split)).strip().lower()
        yield Row(number, str(name), [row.get(label) for label in chosen.labels], split, unit)


def _parsed(file: IO[bytes], where: str) -> Any:
    try:
        return json.loads(file.read(_MOST_JSON).removeprefix(_BOM).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}"[:300], "mend it, or write one JSON object a line") from None


def _from_json(content: Any, columns: Columns) -> Iterator[Row] | None:
    """Of a list of objects, or of names and labels: {"labels": [["a.png", 0], …]} as EDM and StyleGAN write it."""
    if isinstance(content, dict):
        content = content.get("labels", content)
        if content is None:
            return None
        content = list(content.items()) if isinstance(content, dict) else content
    if isinstance(content, list) and content and all(isinstance(pair, (list, tuple)) for pair in content):
        return _from_pairs(content, columns.where)
    if not isinstance(content, list):
        raise DataError(f"{columns.where} is no list of images and labels", FORMAT)
    return _from_objects(enumerate(content, start=1), columns, "entry", "write a list of objects")


def _from_pairs(pairs: Sequence[Sequence[Any]], where: str) -> Iterator[Row]:
    for number, pair in enumerate(pairs, start=1):
        if len(pair) != 2 or not isinstance(pair[0], str):
            raise DataError(f"{where}, entry {number}: not a file name and a label", FORMAT)
        label = _class_of(pair[1], f"{where}, entry {number}") if isinstance(pair[1], list) else pair[1]
        yield Row(number, pair[0], [label], unit="entry")


def _class_of(vector: list[Any], place: str) -> int:
    """The class that a vector of zeros and one 1 stands for."""
    if sorted(vector, key=str) != [0] * (len(vector) - 1) + [1]:
        raise DataError(f"{place}: the label is a vector, but not one of zeros and a single 1", "ditkit learns classes")
    return vector.index(1)
