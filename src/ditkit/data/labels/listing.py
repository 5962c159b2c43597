"""The files of a data set by name: its images, and what may hold their labels; and what is understood of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from ..formats import ending
from ..sources.archive import MemberSource
from ..sources.compact_names import is_all
from ..sources.files import FileSource

T = TypeVar("T", str, bytes)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a folder or of archives: images, and what may hold their labels."""

    where: str
    source: FileSource | MemberSource
    folders: list[bytes]  # all below it, relative to it
    known_endings: tuple[list[str], np.ndarray] | None = None  # as `endings`, where they are known already

    def __len__(self) -> int:
        return len(self.source)

    @property
    def tops(self) -> list[bytes]:
        """The folders at the top, in byte order."""
        return sorted({folder.partition(b"/")[0] for folder in self.folders})

    @cached_property
    def endings(self) -> tuple[list[str], np.ndarray]:
        """The endings of the names, each once, and which of them each file has: int32 (N,)."""
        if self.known_endings is not None:
            return self.known_endings
        numbers: dict[str, int] = {}
        found = (numbers.setdefault(ending(name), len(numbers)) for name in self.source.names)
        of_file = np.fromiter(found, dtype=np.int32, count=len(self))
        return list(numbers), of_file

    @cached_property
    def around(self) -> tuple[list[tuple[str, ...]], np.ndarray]:
        """The folders that the files are in, in parts and each once, and which of them each file is in: int32 (N,)."""
        numbers: dict[bytes, int] = {}
        names = self.source.names
        folders = (names.raw(row).rpartition(b"/")[0] for row in range(len(names)))
        found = (numbers.setdefault(folder, len(numbers)) for folder in folders)
        of_file = np.fromiter(found, dtype=np.int32, count=len(names))
        return [tuple(os.fsdecode(folder).split("/")) if folder else () for folder in numbers], of_file

    def rows(self, extensions: Collection[str]) -> np.ndarray:
        """Those that have such extensions."""
        names, of_file = self.endings
        return np.flatnonzero(np.array([name in extensions for name in names], dtype=bool)[of_file])

    def only(self, extensions: Collection[str]) -> Listing:
        """The files that have such extensions."""
        return self.take(self.rows(extensions))

    def take(self, rows: np.ndarray) -> Listing:
        """Some of the files."""
        if is_all(rows, len(self)):
            return self
        names, of_file = self.endings
        return replace(self, source=self.source.take(rows), known_endings=(names, of_file[rows]))

    def below(self, folder: str) -> Listing:
        """What is in a folder (with a slash at its end), with names relative to it."""
        names, start = self.source.names, os.fsencode(folder)
        is_inside = (names.raw(row).startswith(start) for row in range(len(names)))
        rows = np.flatnonzero(np.fromiter(is_inside, dtype=bool, count=len(names)))
        folders = [name[len(start) :] for name in self.folders if name.startswith(start)]
        where = os.path.join(self.where, folder.rstrip("/"))  # noqa: PTH118
        inside = self.take(rows)
        return replace(inside, where=where, source=inside.source.below(folder), folders=folders)


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The labels by id, and the id of each image: int64 (N,), -1 for one that has none of them."""

    labels: tuple[str, ...] = ()
    label_ids: np.ndarray
    origin: str = "none"  # where they are from, in words
    parts: np.ndarray | None = None  # int8 (N,): layout.TRAIN …, where the labels' table says so
    notes: tuple[str, ...] = ()  # what else there is to say


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a data set was understood, in words: where its labels come from, and lines on what else was found."""

    labels_from: str
    notes: tuple[str, ...] = ()


def notes_of(dataset: object) -> tuple[str, ...]:
    """What to say about how an opened data set was understood; nothing where that is plain."""
    layout = getattr(dataset, "layout", None)
    return layout.notes if isinstance(layout, Layout) else ()


def common_start(names: Collection[tuple[T, ...]]) -> tuple[T, ...]:
    """The parts that all names begin with."""
    if not names:
        return ()
    pairs = zip(min(names), max(names), strict=False)
    return tuple(first for first, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def places_of(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where in `values` each of `wanted` is, -1 where it is not."""
    return places_and_seconds(values, wanted)[0]


def places_and_seconds(values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in `values` each of `wanted` is, and where a second time; -1 where it is not."""
    missing = np.full(len(wanted), -1)
    if not len(values):
        return missing, missing
    order = np.argsort(values, kind="stable")
    first = np.searchsorted(values[order], wanted)
    places = []
    for at in (first, first + 1):
        inside = np.minimum(at, len(values) - 1)
        same = (values[order][inside] == wanted) & (at < len(values))
        places.append(np.where(same, order[inside], -1))
    return places[0], places[1]
