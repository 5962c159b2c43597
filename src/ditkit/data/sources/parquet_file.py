"""Columns of parquet files, and what is wrong with a file that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import DataError

_POINTER = b"version https://git-lfs"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises for a file into a DataError of one line that names it."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        raise DataError(f"{path} {_why(path, error)}", "get it again, and delete this one") from None


def _why(path: Path, error: BaseException) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as of_disk:
        return f"cannot be read: {of_disk.strerror}"
    if head.startswith(_POINTER):
        return "is a pointer of Git LFS, not the file itself (`git lfs pull` fetches it)"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, probably a quota or login page instead of the file"
    if not head.startswith(b"PAR1"):
        return "is not a parquet file"
    return f"is damaged: {(str(error).splitlines() or ['it cannot be read'])[0][:200]}"


def features_of(schema: Any) -> dict[str, dict[str, Any]]:
    """What the hub's libraries note of each column, such as {"_type": "ClassLabel", "names": […]}."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def check_column(table: Path, column: str) -> None:
    """Raise DataError for a table without a column that the first one has."""
    import pyarrow.parquet as parquet

    with reading(table):
        names = parquet.read_schema(table).names
    if column not in names:
        raise DataError(
            f"{table} has no column {column}, but: {', '.join(names[:12])}",
            "give the folder of the tables that belong together, or another column with --label-by",
        )


def columns_of(tables: Sequence[Path], column: str) -> Any:
    """One column of some tables, which must have it, without a dictionary: a pyarrow.ChunkedArray.

    Whole numbers of different widths come as the widest, and floating-point ones as these where all are whole: pandas
    makes them of whole ones with a gap. Raises DataError for columns of different kinds.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    read: list[Any] = []
    for table in tables:
        check_column(table, column)
        with reading(table):
            part = parquet.read_table(table, columns=[column], use_threads=False, pre_buffer=False).column(column)
            is_dictionary = pyarrow.types.is_dictionary(part.type)
            read.append(part.cast(part.type.value_type) if is_dictionary else part)
    kinds = {_kind(part.type): f"{part.type} in {table.name}" for table, part in zip(tables, read, strict=True)}
    kinds = {kind: place for kind, place in kinds.items() if kind != "null"} or kinds
    if len(kinds) > 1:
        raise DataError(
            f"the column {column} is {' and '.join(list(kinds.values())[:2])}, in {tables[0].parent}",
            "write these tables with one type, or give the folder of those that belong together",
        )
    parts = [_whole(part) for part in read] if "number" in kinds else read
    types = {part.type for part in parts}
    common = types.pop() if len(types) == 1 else _widest(types)
    return pyarrow.chunked_array([chunk for part in parts for chunk in part.cast(common).chunks], common)


def _kind(type_: Any) -> str:
    from pyarrow import types

    if types.is_integer(type_) or types.is_floating(type_):
        return "number"
    return "text" if types.is_string(type_) or types.is_large_string(type_) else str(type_)


def _widest(kinds: Iterable[Any]) -> Any:
    """The type that holds what all of these hold, of numbers or of text."""
    import pyarrow

    names = [_kind(kind) for kind in kinds]
    if "number" in names:
        return pyarrow.float64() if pyarrow.float64() in kinds else pyarrow.int64()
    return pyarrow.large_string() if "text" in names else next(kind for kind in kinds if _kind(kind) != "null")


def _whole(numbers: Any) -> Any:
    """Floating-point numbers as whole ones where all are, and what is none as a gap; others as they are."""
    import pyarrow
    import pyarrow.compute

    compute: Any = pyarrow.compute  # its functions are made when it is imported
    if not pyarrow.types.is_floating(numbers.type):
        return numbers
    numbers = numbers.cast(pyarrow.float64())
    numbers = compute.if_else(compute.is_nan(numbers), pyarrow.scalar(None, pyarrow.float64()), numbers)
    are_whole = compute.all(compute.equal(compute.floor(numbers), numbers)).as_py() is not False
    return numbers.cast(pyarrow.int64()) if are_whole and not compute.any(compute.is_inf(numbers)).as_py() else numbers
