"""Names of classes that models know by number only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def imagenet() -> tuple[str, ...]:
    """ImageNet's 1000 classes in their usual order: a short English name each, all different.

    The first word that WordNet has for each, but for four: two would be shared, one in lower case, one is rarely said.
    """
    return tuple(Path(__file__).with_name("imagenet.txt").read_text(encoding="utf-8").splitlines())


def short_names(labels: Sequence[str]) -> tuple[str, ...]:
    """ImageNet's names where labels are its lists of synonyms ("tench, Tinca tinca"), else the labels themselves."""
    pairs = zip(imagenet(), labels, strict=False)
    known = sum(name.split()[0].lower() in label.lower() for name, label in pairs) if len(labels) == 1000 else 0
    return imagenet() if known > 900 else tuple(labels)


def class_names(count: int) -> tuple[str, ...]:
    """ImageNet's names for its number of classes, else 0, 1, 2 …"""
    return imagenet() if count == len(imagenet()) else tuple(str(number) for number in range(count))
