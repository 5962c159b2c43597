"""Image and label columns of parquet tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...config import DataConfig
from ...errors import DataError, UsageError, unknown
from ..contract import Split
from ..formats import is_picture
from ..image_dataset import ImageDataset, image_dataset, image_subset
from ..labels import attributes
from .parquet_cache import open_packed
from .splits import CARD, by_split

SUFFIX = ".parquet"
IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "png")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "cls")
MOST_CLASSES = 10_000
_ROWS = 64  # read at a time
_BUFFER = 1 << 20  # bytes
_POINTER = b"version https://git-lfs"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
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


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What the hub's libraries note of each column, such as {"_type": "ClassLabel", "names": […]}."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _image_column(table: Path, schema: Any, wanted: str | None) -> str:
    """The column that holds the encoded images: the wanted one, or the only one there is."""
    columns = [field.name for field in schema if _holds_bytes(field.type)]
    if wanted is not None:
        if wanted not in schema.names:
            raise unknown("column", wanted, schema.names)
        if wanted not in columns:
            raise UsageError(f"the column {wanted} of {table.name} holds no images", _list(columns or schema.names))
        return wanted
    noted = [name for name, feature in _features(schema).items() if feature.get("_type") == "Image"]
    images = [name for name in columns if name in noted] or [name for name in columns if _is_image(table, name)]
    if not images:
        raise DataError(f"no column of {table} holds images: {', '.join(schema.names[:12])}", "give another dataset")
    usual = [name for word in IMAGE_NAMES for name in images if name.lower() == word]
    if len(images) > 1 and not usual:
        raise UsageError(f"several columns of {table.name} hold images: {', '.join(images)}", "set data.image_column")
    return (usual or images)[0]


def _label_column(table: Path, schema: Any, image: str, wanted: str | None) -> str | None:
    """The column that gives the labels: the wanted one, the one made for that, one of a usual name, or None."""
    columns = [field.name for field in schema if field.name != image and _holds_labels(field.type)]
    if wanted is not None:
        spelled = {name.lower(): name for name in columns}
        if wanted in columns or wanted.lower() in spelled:
            return wanted if wanted in columns else spelled[wanted.lower()]
        if wanted in schema.names:
            raise UsageError(f"the column {wanted} of {table.name} holds no labels", _list(columns))
        raise unknown("column", wanted, columns)
    features = _features(schema)
    classes = [name for name in columns if features.get(name, {}).get("_type") == "ClassLabel"]
    usual = [name for word in LABEL_NAMES for name in columns if name.lower() == word]
    best = [name for name in usual if name in classes] or classes or usual
    if len(best) > 1 and not set(best) & set(usual):
        raise UsageError(f"several columns of {table.name} may be the labels: {', '.join(best)}", "use --label-by")
    return best[0] if best else None


def image_blocks(table: Path, column: str) -> Iterator[tuple[memoryview, np.ndarray]]:
    """The encoded images of a table, some rows at a time: their bytes, one after the other, and the size of each."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet as parquet

    compute: Any = pyarrow.compute  # its functions are made when it is imported
    # without pre_buffer=False it would hold the whole file
    with _reading(table), parquet.ParquetFile(table, buffer_size=_BUFFER, pre_buffer=False) as file:
        for batch in file.iter_batches(_ROWS, columns=[column], use_threads=False):
            images = batch.column(0)
            if pyarrow.types.is_struct(images.type):
                images = compute.struct_field(images, "bytes")
            images = compute.fill_null(images.cast(pyarrow.large_binary()), b"")
            _, offsets, content = images.buffers()
            ends = np.frombuffer(offsets, np.int64)[images.offset : images.offset + len(images) + 1]
            block = memoryview(content)[ends[0] : ends[-1]] if content is not None else memoryview(b"")
            yield block, np.diff(ends)


def _column(tables: Sequence[Path], column: str) -> Any:
    """One column of some tables, which must have it, without a dictionary: a pyarrow.ChunkedArray."""
    import pyarrow
    import pyarrow.parquet as parquet

    chunks: list[Any] = []
    for table in tables:
        with _reading(table):
            read = parquet.read_table(table, columns=[column], use_threads=False, pre_buffer=False).column(column)
            chunks += (read if not chunks or read.type == chunks[0].type else read.cast(chunks[0].type)).chunks
    column_of_all = pyarrow.chunked_array(chunks)
    is_dictionary = pyarrow.types.is_dictionary(column_of_all.type)
    return column_of_all.cast(column_of_all.type.value_type) if is_dictionary else column_of_all


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _holds_labels(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_integer(kind) or types.is_boolean(kind) or types.is_string(kind) or types.is_large_string(kind)


def _is_image(table: Path, column: str) -> bool:
    """Whether the first bytes that a column has are those of an image."""
    for block, sizes in image_blocks(table, column):
        if sizes.any():
            return is_picture(bytes(block[:16]))
    return False


def _list(names: Sequence[str]) -> str:
    return f"others: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}" if names else "there is no other"


def tables_below(root: Path) -> list[str]:
    """The parquet files of a folder and of those in it, relative to it, with slashes."""
    tables = (path.relative_to(root) for path in root.rglob(f"*{SUFFIX}") if path.is_file())
    return sorted(path.as_posix() for path in tables if not any(part.startswith(".") for part in path.parts))


def folder_of_tables(config: DataConfig, split: Split, root: Path) -> ImageDataset:
    """The images in the parquet files below a folder; see `table_images`."""
    return table_images(config, split, root, by_split(tables_below(root), root / CARD, place=str(root)))


def table_images(
    config: DataConfig, split: Split, root: Path, files: Mapping[str, Sequence[str]], *, kind: str = "column"
) -> ImageDataset:
    """The images of a split's tables below a folder; without any for validation, some of training are held out.

    `config.label_by` names the column of labels, or some of true and false; `kind` is what errors call those. Raises
    DitkitError when there are no images, when there is an unlabelled one, and for damaged tables.
    """
    import pyarrow.parquet as parquet

    train = [root / path for path in files["train"]]
    validation = [root / path for path in files.get("validation", [])]
    tables = validation if split == "validation" and validation else train
    with _reading(train[0]):
        schema = parquet.read_schema(train[0])
    column = _image_column(train[0], schema, config.image_column)
    labels, label_ids = _labels(train, tables, schema, column, config.label_by, kind)
    source = open_packed(root, tables, column, lambda table: image_blocks(table, column))
    if not source.sizes.any():
        raise DataError(f"the column {column} of {tables[0]} holds no images", "choose another: data.image_column")
    if label_ids is None:
        label_ids = np.zeros(len(source), np.int64)
    if not validation:
        return image_dataset(config, split, source, labels, label_ids)
    rows = np.flatnonzero(label_ids >= 0)
    if split == "validation":
        count = min(config.validation, len(rows))
        rows = rows[np.linspace(0, len(rows), count, endpoint=False, dtype=np.int64)]  # they may be sorted by label
    return image_subset(config, source, rows, labels, label_ids)


def _labels(
    train: Sequence[Path], tables: Sequence[Path], schema: Any, image: str, label_by: str | None, kind: str
) -> tuple[tuple[str, ...], np.ndarray | None]:
    """The classes, which the tables for training name, and the id of each row of `tables`, -1 for an unlabelled one."""
    binary = [field.name for field in schema if str(field.type) == "bool"]
    several = label_by is not None and "," in label_by and label_by not in schema.names
    if label_by is not None and (several or kind != "column"):
        return _attributes(train, tables, attributes.choose(label_by, binary, kind))
    column = _label_column(train[0], schema, image, label_by)
    if column is None:
        return (), None
    if column in binary:
        return _attributes(train, tables, [column])
    return _categories(train, tables, column, _features(schema).get(column, {}).get("names"))


def _attributes(
    train: Sequence[Path], tables: Sequence[Path], names: Sequence[str]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Of columns of true and false; every combination must be in the tables for training."""

    def read(tables: Sequence[Path]) -> np.ndarray:
        columns = [_column(tables, name) for name in names]
        for name, column in zip(names, columns, strict=True):
            _check_labelled(column.null_count, name, tables)
        return attributes.ids(np.stack([column.to_numpy() for column in columns], axis=1))

    labels, ids = attributes.labels(names), read(train)
    for label, count in zip(labels, np.bincount(ids, minlength=len(labels)), strict=True):
        if not count:
            raise DataError(f"no training image is {label!r}", "choose other attributes with --label-by")
    return labels, ids if tables == train else read(tables)


def _categories(
    train: Sequence[Path], tables: Sequence[Path], column: str, names: Sequence[str] | None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Of a column of words or numbers; `names` are those of the numbers 0, 1, ….  Unused ones are no classes."""
    import pyarrow
    import pyarrow.compute

    compute: Any = pyarrow.compute  # its functions are made when it is imported
    values = _column(train, column).unique().drop_null().to_pylist()
    if names is not None:
        values = [value for value in values if value >= 0]  # -1: unlabelled, by the hub's custom
        if max(values, default=0) >= len(names):
            raise DataError(f"the column {column} of {train[0]} has the label {max(values)}", "it has no name")
    if len(values) > MOST_CLASSES:
        raise UsageError(f"the column {column} has {len(values):,} different values", "choose another with --label-by")
    values.sort()
    cells = _column(tables, column)
    ids = compute.index_in(cells, pyarrow.array(values, cells.type)).fill_null(-1).to_numpy().astype(np.int64)
    if tables == train:
        _check_labelled(int((ids < 0).sum()), column, tables)
    return tuple(str(names[value] if names is not None else value) for value in values), ids


def _check_labelled(missing: int, column: str, tables: Sequence[Path]) -> None:
    if missing:
        raise DataError(
            f"{missing:,} rows of {tables[0].parent} have nothing in the column {column}",
            "choose another with --label-by",
        )
