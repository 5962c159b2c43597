"""Labels from where the settings say: a table, an expression for the names of files, or nowhere."""

from __future__ import annotations

import re

import numpy as np

from ...config import DataConfig
from ...errors import DataError, UsageError
from ...io.paths import expanded
from ...io.text import composed
from ..decode import open_file
from .listing import Labelled, Listing
from .matching import matched
from .table import read_table
from .values import Labels

NONE, FOLDERS = "none", "folders"  # values of data.label_from that are no expressions
WITHOUT = "none"  # where labels are from that are not there
_EXAMPLE = 'e.g. --label-from "(.*)_\\d+" for cat_01.jpg'


def check_settings(config: DataConfig) -> None:
    """Raise UsageError for settings that contradict each other."""
    others = [name for name in ("label_by", "label_file") if getattr(config, name) is not None]
    if config.label_from is not None and others:
        option = f"--{others[0].replace('_', '-')}"
        raise UsageError(f"--label-from and {option} both say where labels come from", "leave one of them out")


def labels_as_set(images: Listing, needed: np.ndarray, config: DataConfig) -> Labelled | None:
    """The labels that the settings say, if they do; of the images that are `needed`, bool (N,), all must have one.

    Raises DitkitError for a table or an expression that does not fit.
    """
    if config.label_from == NONE:
        return without_labels(images)
    if config.label_from is not None:
        return _from_names(images, needed, config.label_from)
    if config.label_file is None:
        return None
    path = expanded(config.label_file)
    table = read_table(lambda: open_file(path), str(path), config.label_by, config.image_column)
    assert table is not None  # None only where it may not guess
    return matched(table, images, needed) if table.labels else without_labels(images)


def without_labels(images: Listing, why: str = "") -> Labelled:
    """Images of an unconditional data set, with the reason why they are."""
    return Labelled(label_ids=np.zeros(len(images), dtype=np.int64), origin=f"{WITHOUT}: {why}" if why else WITHOUT)


def _from_names(images: Listing, needed: np.ndarray, expression: str) -> Labelled:
    """The first group of an expression that matches the name without its ending; all of the path if it has a slash."""
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"--label-from: {expression!r} is no regular expression: {error}", _EXAMPLE) from None
    if not pattern.groups:
        raise UsageError(f"--label-from: {expression!r} has no group in parentheses", _EXAMPLE)
    labels, chosen, without = Labels(), list[int](), list[int]()
    for row in range(len(images)):
        name = composed(images.source.names[row]).rpartition(".")[0]
        match = pattern.fullmatch(name if "/" in expression else name.rpartition("/")[2])
        if match and (match[1] or "").strip():
            labels.add([match[1]], images.source.place(row))
            chosen.append(row)
        elif needed[row]:
            without.append(row)
    if without:
        first = ", ".join(images.source.names[row] for row in without[:5]) + (" …" if len(without) > 5 else "")
        raise DataError(
            f"--label-from {expression!r} does not match {len(without):,} of {len(images):,} names: {first}",
            "change the expression, or move these images away",
        )
    if labels.too_many():
        raise DataError(
            f"--label-from {expression!r} makes {labels.count():,} labels of {len(images):,} images: too many",
            "let the group match less of the name",
        )
    by_id, ids = labels.finish()
    label_ids = np.full(len(images), -1)
    label_ids[chosen] = ids
    return Labelled(labels=by_id, label_ids=label_ids, origin=f"from the images' names, by {expression}")
