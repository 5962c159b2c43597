"""Image and label columns of parquet tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...config import DataConfig
from ...errors import DataError, UsageError, unknown
from ..contract import Split
from ..formats import is_picture
from ..image_dataset import ImageDataset, image_dataset, image_subset
from ..labels.listing import Layout
from ..labels.table import PARTS
from .files import hidden
from .parquet_cache import open_packed
from .parquet_file import check_column, features_of, reading
from .parquet_labels import labels_of, others
from .splits import CARD, by_split

SUFFIX = ".parquet"
IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "png")
_ROWS = 64  # read at a time
_BUFFER = 1 << 20  # bytes


def _image_column(table: Path, schema: Any, wanted: str | None) -> str:
    """The column that holds the encoded images: the wanted one, or the only one there is."""
    columns = [field.name for field in schema if _holds_bytes(field.type)]
    if wanted is not None:
        if wanted not in schema.names:
            raise unknown("column", wanted, schema.names)
        if wanted not in columns:
            raise UsageError(f"the column {wanted} of {table.name} holds no images", others(columns or schema.names))
        return wanted
    noted = [name for name, feature in features_of(schema).items() if feature.get("_type") == "Image"]
    images = [name for name in columns if name in noted] or [name for name in columns if _is_image(table, name)]
    if not images:
        raise DataError(f"no column of {table} holds images: {', '.join(schema.names[:12])}", "give another dataset")
    usual = [name for word in IMAGE_NAMES for name in images if name.lower() == word]
    if len(images) > 1 and not usual:
        raise UsageError(f"several columns of {table.name} hold images: {', '.join(images)}", "set data.image_column")
    return (usual or images)[0]


def image_blocks(table: Path, column: str) -> Iterator[tuple[memoryview, np.ndarray]]:
    """The encoded images of a table, some rows at a time: their bytes, one after the other, and the size of each."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet as parquet

    compute: Any = pyarrow.compute  # its functions are made when it is imported
    check_column(table, column)
    # without pre_buffer=False it would hold the whole file
    with reading(table), parquet.ParquetFile(table, buffer_size=_BUFFER, pre_buffer=False) as file:
        for batch in file.iter_batches(_ROWS, columns=[column], use_threads=False):
            images = batch.column(0)
            if pyarrow.types.is_struct(images.type):
                images = compute.struct_field(images, "bytes")
            images = compute.fill_null(images.cast(pyarrow.large_binary()), b"")
            _, offsets, content = images.buffers()
            ends = np.frombuffer(offsets, np.int64)[images.offset : images.offset + len(images) + 1]
            block = memoryview(content)[ends[0] : ends[-1]] if content is not None else memoryview(b"")
            yield block, np.diff(ends)


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _is_image(table: Path, column: str) -> bool:
    """Whether the first bytes that a column has are those of an image."""
    for block, sizes in image_blocks(table, column):
        if sizes.any():
            return is_picture(bytes(block[:16]))
    return False


def tables_below(root: Path) -> list[str]:
    """The parquet files of a folder and of those in it, relative to it, with slashes."""
    tables = (path.relative_to(root) for path in root.rglob(f"*{SUFFIX}") if path.is_file())
    return sorted(path.as_posix() for path in tables if not any(map(hidden, path.parts)))


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
    with reading(train[0]):
        schema = parquet.read_schema(train[0])
    column = _image_column(train[0], schema, config.image_column)
    labelled = labels_of(train, tables, schema, column, config, kind)
    source = open_packed(root, tables, column, lambda table: image_blocks(table, column))
    if not source.sizes.any():
        raise DataError(f"the column {column} of {tables[0]} holds no images", "choose another: data.image_column")
    labels, label_ids = labelled.labels, labelled.label_ids
    layout = Layout(labels_from=labelled.origin, notes=labelled.notes)
    if not validation and labelled.parts is None:
        return replace(image_dataset(config, split, source, labels, label_ids), layout=layout)
    rows = np.flatnonzero(label_ids >= 0)
    if labelled.parts is not None:
        rows = np.flatnonzero((label_ids >= 0) & (labelled.parts == PARTS[split]))
    if split == "validation":
        count = min(config.validation, len(rows))
        rows = rows[np.linspace(0, len(rows), count, endpoint=False, dtype=np.int64)]  # they may be sorted by label
    return replace(image_subset(config, source, rows, labels, label_ids), layout=layout)
