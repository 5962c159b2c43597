"""Which column of parquet tables gives the labels, and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...config import DataConfig
from ...errors import DataError, UsageError, unknown
from ..labels import attributes
from ..labels.columns import SPLITS
from ..labels.from_settings import NONE
from ..labels.listing import Labelled
from ..labels.table import parts_of
from ..labels.values import label_of
from .parquet_file import columns_of, features_of

LABEL_NAMES = ("label", "labels", "class", "category", "target", "cls")
MOST_CLASSES = 10_000
_WITHOUT = "--label-from none learns the images without labels"

_Classes = tuple[tuple[str, ...], np.ndarray]  # the labels by id, and the id of each row, -1 for an unlabelled one


def labels_of(
    train: Sequence[Path], tables: Sequence[Path], schema: Any, image: str, config: DataConfig, kind: str
) -> Labelled:
    """The classes, which the tables for training name, and the id of each row of `tables`, -1 for an unlabelled one.

    A column of splits is followed where nothing else parts the tables. Raises DitkitError for what is no label.
    """
    if config.label_from not in (None, NONE):
        raise UsageError("--label-from is for names of files: tables have columns", "name one with --label-by")
    column, classes = None, None
    if config.label_from is None:
        column, classes = _find(train, tables, schema, image, config.label_by, kind)
    labels, ids = classes or ((), np.zeros(_length(tables), dtype=np.int64))
    parts, notes = None, ()
    split = next((field.name for field in schema if field.name.lower() in SPLITS and field.name != column), None)
    if split is not None and tables == train:
        words = [None if word is None else str(word).strip().lower() for word in columns_of(tables, split).to_pylist()]
        parts, notes = parts_of(words, f"{train[0].parent}, {split}")
    return Labelled(
        labels=labels, label_ids=ids, origin=f"from the column {column}" if column else "none", parts=parts, notes=notes
    )


def _length(tables: Sequence[Path]) -> int:
    from pyarrow import parquet

    return sum(parquet.read_metadata(table).num_rows for table in tables)


def _find(
    train: Sequence[Path], tables: Sequence[Path], schema: Any, image: str, label_by: str | None, kind: str
) -> tuple[str | None, _Classes | None]:
    """The column, or several, that the labels are from, and the classes."""
    binary = [field.name for field in schema if str(field.type) == "bool"]
    several = label_by is not None and "," in label_by and label_by not in schema.names
    if label_by is not None and (several or kind != "column"):
        names = attributes.choose(label_by, [*binary, *_numbers_of_two(train, schema, label_by)], kind)
        return ", ".join(names), _attributes(train, tables, names)
    column = _label_column(train[0], schema, image, label_by)
    if column is None:
        return None, None
    if column in binary or (label_by is not None and _is_plus_or_minus(train, schema, column)):
        return column, _attributes(train, tables, [column])
    return column, _categories(train, tables, column, features_of(schema).get(column, {}).get("names"))


def _numbers_of_two(train: Sequence[Path], schema: Any, label_by: str) -> list[str]:
    """Those of the named columns that hold whole numbers, which are 1 and 0, or 1 and -1."""
    from pyarrow import types

    named = [word.strip().lower() for word in label_by.split(",")]
    columns = [field.name for field in schema if field.name.lower() in named and types.is_integer(field.type)]
    return [name for name in columns if set(columns_of(train, name).unique().to_pylist()) <= {0, 1, -1}]


def _is_plus_or_minus(train: Sequence[Path], schema: Any, column: str) -> bool:
    """Whether a column that is no class of the hub's holds 1 and -1, as CelebA's attributes do."""
    noted = features_of(schema).get(column, {}).get("names")
    return noted is None and set(columns_of(train, column).unique().to_pylist()) in ({1, -1}, {-1})


def _label_column(table: Path, schema: Any, image: str, wanted: str | None) -> str | None:
    """The column that gives the labels: the wanted one, the one made for that, one of a usual name, or None."""
    columns = [field.name for field in schema if field.name != image and _holds_labels(field.type)]
    if wanted is not None:
        spelled = {name.lower(): name for name in columns}
        if wanted in columns or wanted.lower() in spelled:
            return wanted if wanted in columns else spelled[wanted.lower()]
        if wanted in schema.names:
            raise UsageError(f"the column {wanted} of {table.name} holds no labels", others(columns))
        raise unknown("column", wanted, columns)
    features = features_of(schema)
    classes = [name for name in columns if features.get(name, {}).get("_type") == "ClassLabel"]
    usual = [name for word in LABEL_NAMES for name in columns if name.lower() == word]
    best = [name for name in usual if name in classes] or classes or usual
    if len(best) > 1 and not set(best) & set(usual):
        raise UsageError(f"several columns of {table.name} may be the labels: {', '.join(best)}", "use --label-by")
    unlike = [field for field in schema if field.name.lower() in LABEL_NAMES and field.name not in (*columns, image)]
    if not best and unlike:
        raise DataError(
            f"the column {unlike[0].name} of {table.name} holds {unlike[0].type}, which is no label",
            f"name another with --label-by; {_WITHOUT}",
        )
    return best[0] if best else None


def _holds_labels(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    holders = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string)
    return any(holds(kind) for holds in holders)


def _attributes(train: Sequence[Path], tables: Sequence[Path], names: Sequence[str]) -> _Classes:
    """Of columns of true and false; every combination must be in the tables for training."""

    def read(tables: Sequence[Path]) -> np.ndarray:
        columns = [columns_of(tables, name) for name in names]
        for name, column in zip(names, columns, strict=True):
            _check_labelled(column.null_count, name, tables)
        return attributes.ids(np.stack([column.to_numpy() > 0 for column in columns], axis=1))

    labels, ids = attributes.labels(names), read(train)
    for label, count in zip(labels, np.bincount(ids, minlength=len(labels)), strict=True):
        if not count:
            raise DataError(f"no training image is {label!r}", "choose other attributes with --label-by")
    return labels, ids if tables == train else read(tables)


def _categories(train: Sequence[Path], tables: Sequence[Path], column: str, names: Sequence[str] | None) -> _Classes:
    """Of a column of words or numbers; `names` are those of the numbers 0, 1, ….  Unused ones are no classes."""
    import pyarrow
    import pyarrow.compute

    compute: Any = pyarrow.compute  # its functions are made when it is imported
    values = columns_of(train, column).unique().drop_null().to_pylist()
    if names is not None:
        values = [value for value in values if value >= 0]  # -1: unlabelled, by the hub's custom
        if max(values, default=0) >= len(names):
            raise DataError(f"the column {column} of {train[0]} has the label {max(values)}", "it has no name")
    if any(isinstance(value, float) for value in values):
        raise UsageError(
            f"the column {column} of {train[0].name} holds no labels", f"name another with --label-by; {_WITHOUT}"
        )
    if len(values) > MOST_CLASSES:
        raise UsageError(f"the column {column} has {len(values):,} different values", "choose another with --label-by")
    values.sort()
    cells = columns_of(tables, column)
    ids = compute.index_in(cells, pyarrow.array(values, cells.type)).fill_null(-1).to_numpy().astype(np.int64)
    if tables == train:
        _check_labelled(int((ids < 0).sum()), column, tables)
    labels = [_label(str(names[value] if names is not None else value), column, train[0]) for value in values]
    new = {label: number for number, label in enumerate(dict.fromkeys(labels))}  # two spellings are one
    return tuple(new), np.append([new[label] for label in labels], -1)[ids].astype(np.int64)


def _label(text: str, column: str, table: Path) -> str:
    try:
        return label_of(text)
    except ValueError as error:
        raise DataError(f"the column {column} of {table.name}: {error}", f"choose another; {_WITHOUT}") from None


def _check_labelled(missing: int, column: str, tables: Sequence[Path]) -> None:
    if missing:
        raise DataError(
            f"{missing:,} rows of {tables[0].parent} have nothing in the column {column}",
            "choose another with --label-by",
        )


def others(names: Sequence[str]) -> str:
    """Words for a hint: the columns that would do."""
    return f"others: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}" if names else "there is no other"
