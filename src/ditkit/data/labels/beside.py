"""Labels from files beside the images, one each: `0001.txt` of `0001.png`, as in the shards of webdataset."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import DataError, unknown
from ...io.text import plural
from ..sources.compact_names import hashes
from .columns import LABELS
from .listing import Labelled, Listing, places_and_seconds
from .table import normalized
from .values import Labels

EXTENSIONS = (".cls", ".json", ".txt")  # the first that holds labels counts
_MOST_BYTES = 1 << 20  # of a file beside an image


def labels_beside(listing: Listing, images: Listing, label_by: str | None) -> tuple[Labelled | None, list[str]]:
    """Labels from files named like the images, and lines about those that are there and not used.

    A few stray files are none. Raises DataError for what is unclear.
    """
    notes = list[str]()
    for extension in EXTENSIONS if label_by is None else (".json",):
        beside = listing.only({extension})
        if 2 * len(beside) < len(images):
            if len(beside) > 1 and 10 * len(beside) >= len(images):
                notes.append(
                    f"not read: {plural(len(beside), extension + ' file')}, as most images have none beside them"
                )
            continue
        rows = _belonging(beside, images)
        missing = np.flatnonzero(rows < 0)
        if 2 * len(missing) > len(rows):
            continue
        if len(missing):
            raise DataError(
                f"{len(missing):,} of {len(rows):,} images have no {extension} file beside them, "
                f"the first is {images.source.place(int(missing[0]))}",
                "add it, or give a table of labels with --label-file",
            )
        labelled = _collected(_values(beside, rows, extension, label_by), optional=extension == ".txt")
        if labelled is not None:
            return replace(labelled, origin=f"from the {extension} files beside the images"), []
        why = "they look like captions" if extension == ".txt" else "none has a field of labels (--label-by names one)"
        notes.append(f"not read: the {extension} files beside the images; {why}")
    return None, notes


def _belonging(beside: Listing, images: Listing) -> np.ndarray:
    """The row of the file that belongs to each image, -1 without one. Raises DataError where two may.

    It is called like the image, with or without the image's extension. Only where there is none, what stands before
    the first dot decides, as in webdataset: `7.cls` belongs to `7.input.png`, and so does `7.output.cls` where no
    image has a file of its own.
    """
    stems, own_names, own_stems = _hashed(beside, _stem), _hashed(images, bytes), _hashed(images, _stem)
    by_name, second_name = places_and_seconds(stems, own_names)
    by_stem, second_stem = places_and_seconds(stems, own_stems)
    for first, second in ((by_name, by_stem), (by_name, second_name), (by_stem, second_stem)):
        _check_single(beside, images, first, second)
    rows = np.where(by_name >= 0, by_name, by_stem)
    missing = np.flatnonzero(rows < 0)
    keys = _hashed(beside, _key)
    shared = np.flatnonzero(keys == stems) if (rows >= 0).any() else np.arange(len(beside))
    first, second = places_and_seconds(keys[shared], _hashed(images, _key)[missing])
    shared = np.append(shared, -1)  # at -1, where there is none
    others = np.full(len(rows), -1)
    rows[missing], others[missing] = shared[first], shared[second]
    _check_single(beside, images, rows, others)
    return rows


def _check_single(beside: Listing, images: Listing, first: np.ndarray, second: np.ndarray) -> None:
    """Raises DataError for an image to which two files may belong."""
    twice = np.flatnonzero((first >= 0) & (second >= 0) & (first != second))
    if len(twice):
        row = int(twice[0])
        names = [beside.source.name(int(rows[row])) for rows in (first, second)]
        raise DataError(
            f"two files may hold the label of {images.source.place(row)}: {' and '.join(names)}",
            "take one of them away, or give a table of labels with --label-file",
        )


def _hashed(listing: Listing, part: Callable[[bytes], bytes]) -> np.ndarray:
    """Hashes of a part of each file's name, behind its folder."""
    names = (normalized(os.fsencode(listing.source.name(row))).rpartition(b"/") for row in range(len(listing)))
    return hashes(folder + slash + part(name) for folder, slash, name in names)


def _stem(name: bytes) -> bytes:
    return name.rpartition(b".")[0]


def _key(name: bytes) -> bytes:
    return name.partition(b".")[0]


def _values(beside: Listing, rows: np.ndarray, extension: str, label_by: str | None) -> Iterator[tuple[str, Any]]:
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
    if not labels.count() or labels.too_many():
        return None
    by_id, ids = labels.finish()
    return Labelled(labels=by_id, label_ids=ids)
