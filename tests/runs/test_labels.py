"""Labels of images to draw: names or class numbers, of Python, NumPy and torch, or how many images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ditkit.errors import UsageError
from ditkit.runs.model_info import resolve_labels

ANIMALS, DIGITS = ("cat", "dog", "horse"), ("3", "1", "4")


@pytest.mark.parametrize(
    ("known", "labels", "resolved"),
    [
        (ANIMALS, [2, 0], ["horse", "cat"]),
        (ANIMALS, ["dog", 0], ["dog", "cat"]),
        (ANIMALS, np.array([2, 1]), ["horse", "dog"]),
        (ANIMALS, torch.tensor([2, 1]), ["horse", "dog"]),
        (ANIMALS, (np.int64(1),), ["dog"]),
        (ANIMALS, "dog", ["dog"]),
        (ANIMALS, 4, ["cat", "dog", "horse", "cat"]),
        (ANIMALS, np.int64(2), ["cat", "dog"]),
        (DIGITS, [1, 3], ["1", "3"]),  # names come first: the class 1 is called "1"
        ((), ["any", "any"], [None, None]),
        ((), 2, [None, None]),
    ],
)
def test_labels_are_names_or_class_numbers(known: tuple[str, ...], labels: Any, resolved: list) -> None:
    assert resolve_labels(known, labels) == resolved


@pytest.mark.parametrize(
    ("known", "labels", "message"),
    [
        (ANIMALS, [3], "there is no class 3"),
        (ANIMALS, [-1], "unknown label '-1'"),
        (ANIMALS, [1.5], "1.5 is neither a label nor the number of a class"),
        (ANIMALS, [None], "None is neither"),
        (DIGITS, [0], "unknown label '0'"),
        ((), [0], "this model has no labels, so there is no '0'"),
        (ANIMALS, 0, "cannot draw 0 images"),
        (ANIMALS, [], "cannot draw 0 images"),
    ],
)
def test_other_labels_are_refused(known: tuple[str, ...], labels: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_labels(known, labels)
