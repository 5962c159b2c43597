"""Parquet tables of images, as the hub has them: a column of encoded images, and perhaps one of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import DataConfig
from ..errors import DataError, UsageError
from . import attributes
from .columns import (
    MOST_CLASSES,
    features_of,
    image_blocks,
    image_column,
    label_column,
    read_column,
    rows_of,
    schema_of,
)
from .contract import Split
from .packs import packed
from .pictures import Pictures, chosen_pictures, pictures
from .splits import CARD, by_split

SUFFIX = ".parquet"


def tables_below(root: Path) -> list[str]:
    """The parquet files of a folder and of those in it, relative to it, with slashes."""
    found = (path.relative_to(root) for path in root.rglob(f"*{SUFFIX}") if path.is_file())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def folder_of_tables(config: DataConfig, split: Split, root: Path) -> Pictures:
    """The images in the parquet files below a folder."""
    return table_pictures(config, split, root, by_split(tables_below(root), root / CARD, place=str(root)))


def table_pictures(
    config: DataConfig, split: Split, root: Path, files: Mapping[str, Sequence[str]], *, kind: str = "column"
) -> Pictures:
    """The images of a split's tables below a folder; without any for validation, some of training are held out.

    `config.label_by` names the column of labels, or some of true and false; `kind` is what errors call those. Raises
    DitkitError when there are no images, when there is an unlabelled one, and for damaged tables.
    """
    train = [root / path for path in files["train"]]
    validation = [root / path for path in files.get("validation", [])]
    schema = schema_of(train[0])
    column = image_column(train[0], schema, config.image_column)
    read = _labels(train, schema, column, config.label_by, kind)
    tables = validation if split == "validation" and validation else train
    source = packed(root, tables, column, lambda table: image_blocks(table, column))
    sizes = source.sizes()
    if not sizes.any():
        raise DataError(f"the column {column} of {tables[0]} holds no images", "choose another: data.image_column")
    labels, label_ids = read(tables)
    if not validation:
        return pictures(config, split, source, sizes, labels, label_ids)
    rows = np.flatnonzero(label_ids >= 0)
    if split == "validation":
        count = min(config.validation, len(rows))
        rows = rows[np.linspace(0, len(rows), count, endpoint=False, dtype=np.int64)]  # they may be sorted by label
    return chosen_pictures(config, source, rows, sizes, labels, label_ids)


Read = Callable[[Sequence[Path]], tuple[tuple[str, ...], np.ndarray]]  # tables to classes and each row's id, or -1


def _labels(train: Sequence[Path], schema: Any, image: str, label_by: str | None, kind: str) -> Read:
    """What reads the labels, after a look at those for training, which name the classes."""
    binary = [field.name for field in schema if str(field.type) == "bool"]
    several = label_by is not None and "," in label_by and label_by not in schema.names
    if label_by is not None and (several or kind != "column"):
        return _attributes(train, attributes.chosen(label_by, binary, kind))
    column = label_column(train[0], schema, image, label_by)
    if column is None:
        return lambda tables: ((), np.zeros(sum(map(rows_of, tables)), np.int64))
    if column in binary:
        return _attributes(train, [column])
    return _categories(train, column, features_of(schema).get(column, {}).get("names"))


def _attributes(train: Sequence[Path], names: Sequence[str]) -> Read:
    def read(tables: Sequence[Path]) -> tuple[tuple[str, ...], np.ndarray]:
        columns = [read_column(tables, name) for name in names]
        for name, column in zip(names, columns, strict=True):
            _check_labelled(column.null_count, name, tables)
        return labels, attributes.ids(np.stack([column.to_numpy() for column in columns], axis=1))

    labels = attributes.labels(names)
    for label, count in zip(labels, np.bincount(read(train)[1], minlength=len(labels)), strict=True):
        if not count:
            raise DataError(f"no training image is {label!r}", "choose other attributes with --label-by")
    return read


def _categories(train: Sequence[Path], column: str, names: Sequence[str] | None) -> Read:
    """Of a column of words or numbers; `names` are those of the numbers 0, 1, ….  Unused ones are no classes."""
    import pyarrow
    import pyarrow.compute

    compute: Any = pyarrow.compute  # its functions are made when it is imported
    values = _decoded(read_column(train, column)).unique().drop_null().to_pylist()
    if names is not None:
        values = [value for value in values if value >= 0]  # -1: unlabelled, by the hub's custom
        if max(values, default=0) >= len(names):
            raise DataError(f"the column {column} of {train[0]} has the label {max(values)}", "it has no name")
    if len(values) > MOST_CLASSES:
        raise UsageError(f"the column {column} has {len(values):,} different values", "choose another with --label-by")
    values.sort()
    labels = tuple(str(names[value] if names is not None else value) for value in values)

    def read(tables: Sequence[Path]) -> tuple[tuple[str, ...], np.ndarray]:
        found = _decoded(read_column(tables, column))
        ids = compute.index_in(found, pyarrow.array(values, found.type)).fill_null(-1).to_numpy().astype(np.int64)
        if tables == train:
            _check_labelled(int((ids < 0).sum()), column, tables)
        return labels, ids

    return read


def _decoded(column: Any) -> Any:
    from pyarrow import types

    return column.cast(column.type.value_type) if types.is_dictionary(column.type) else column


def _check_labelled(missing: int, column: str, tables: Sequence[Path]) -> None:
    if missing:
        raise DataError(
            f"{missing:,} rows of {tables[0].parent} have nothing in the column {column}",
            "choose another with --label-by",
        )
