"""What a label may be, and many of them as ids."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DataError, UsageError
from ...io.text import composed
from . import attributes

_LONGEST_LABEL = 200
_FEW = 10  # labels are never too many
_NOT_OF_A_LINE = ("Cc", "Zl", "Zp", "Cs")  # control characters, ends of lines and of paragraphs, half letters


def label_of(text: str) -> str:
    """A label as models know it: its accents are composed (NFC). Raises ValueError for what is no line of text."""
    text = composed(text.strip())
    if not text:
        raise ValueError("the label is empty")
    if len(text) > _LONGEST_LABEL:
        raise ValueError(f"the label is {len(text):,} letters long")
    if not text.isprintable() and any(unicodedata.category(letter) in _NOT_OF_A_LINE for letter in text):
        raise ValueError(f"the label {text[:60]!a} has a line break or a control character in it")
    return text


def named_label(text: str, where: str) -> str:
    """The same of a label that was handed in. Raises UsageError, which says where."""
    try:
        return label_of(text)
    except ValueError as error:
        raise UsageError(f"{error}, {where}", "a label is one line of text") from None


def text_of(value: Any) -> str:
    """A label of text or of a value from JSON. Raises ValueError for what cannot be one."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None:
        raise ValueError("the label is empty")
    if not isinstance(value, (str, int, float)):
        raise ValueError("the label is neither text nor a number")
    return label_of(str(value))


class Labels:
    """Labels in the order of their images, which become ids in their natural order: 2 before 10."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], int] = {}  # by the parts of each
        self._ids = array("q")

    def add(self, values: Sequence[Any], place: str) -> None:
        """The next image's label, made up of values. Raises DataError, which names the place."""
        try:
            label = tuple(map(text_of, values))
        except ValueError as error:
            raise DataError(f"{place}: {error}", "give every image one label") from None
        self._ids.append(self._seen.setdefault(label, len(self._seen)))

    def too_many(self) -> bool:
        """Whether hardly two have the same: then they are no labels, but names or captions."""
        return len(self._seen) > max(_FEW, len(self._ids) // 2)

    def count(self) -> int:
        """How many different ones there are."""
        return len(self._seen)

    def finish(self, columns: Sequence[str] = ()) -> tuple[tuple[str, ...], np.ndarray]:
        """The labels by id, and the id of each image.

        Values that are all yes or no make classes as CelebA's attributes do, called after the columns.
        """
        named = attributes.of_answers(columns, list(self._seen)) if columns else None
        names = named or {parts: "+".join(parts) for parts in self._seen}
        labels = list(dict.fromkeys(named.values())) if named else sorted(set(names.values()), key=_natural)
        number = {label: index for index, label in enumerate(labels)}
        new = np.array([number[names[parts]] for parts in self._seen], dtype=np.int64)
        return tuple(labels), new[np.array(self._ids, dtype=np.int64)]


def _natural(label: str) -> tuple[Any, ...]:
    """Numbers in it compare as numbers, and come before letters."""
    parts = re.split("([0-9]+)", label)  # every second one is a number
    return tuple((int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)), label
