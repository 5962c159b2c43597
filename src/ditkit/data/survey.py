"""`data show`: counts, duplicates, unreadable."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from ..config import DataConfig
from ..errors import DataError
from ..io.atomic import update_digest
from .contract import Dataset, Split
from .decode import crop_box, examine, fit
from .image_dataset import ImageDataset

MOST_KEPT_SIDE = 256  # pixels of the pictures that are kept
UNKNOWN = -1  # label id of an image that cannot be read, where only reading tells

Size = tuple[int, int]  # width, height


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """An image to look at: `seen` is what the network gets, `original` the whole, `box` what is kept of it."""

    name: str
    label_id: int
    seen: np.ndarray  # uint8 (height, width, channels), as the others
    original: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom, each from 0 to 1


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What one image shows. Size, format and mode are of the encoded one, if it can be had."""

    label_id: int
    digest: bytes = b""  # 16 bytes: equal for equal files, or for equal pixels where there are no files
    size: Size | None = None
    format: str = ""
    mode: str = ""
    shown: Thumbnail | None = None
    why: str | None = None  # it cannot be read


def inspect(part: Dataset, index: int, config: DataConfig, name: str, *, show: bool) -> Inspection:
    """Examine one image; with pictures of it if it is to be shown. What is wrong with it is in the answer."""
    if isinstance(part, ImageDataset):
        return _inspect_original(part, index, config, name if show else None)
    return _inspect_result(part, index, config, name if show else None)


def _inspect_original(part: ImageDataset, index: int, config: DataConfig, name: str | None) -> Inspection:
    """Opened once and read in blocks, whatever its length."""
    row, label_id = int(part.rows[index]), int(part.label_ids[index])
    place = part.source.place(row)
    digest = hashlib.blake2b(digest_size=16)

    def opened() -> IO[bytes]:
        file = part.source.opened(row)
        update_digest(digest, file)
        file.seek(0)
        return file

    try:
        image, header = examine(opened, place, config.channels, config.image_size)
        seen = fit(image, *config.image_size, crop=config.crop)
    except DataError as error:
        return Inspection(label_id=label_id, why=error.message.removeprefix(f"cannot read the image {place}: "))
    shown = None
    if name is not None:
        left, top, right, bottom = crop_box(image.size, *config.image_size, config.crop)
        shown = Thumbnail(
            name=name,
            label_id=label_id,
            seen=_small(seen),
            original=_small(image),
            box=(left / image.width, top / image.height, right / image.width, bottom / image.height),
        )
    return Inspection(
        label_id=label_id,
        digest=digest.digest(),
        size=header.size,
        format=header.format,
        mode=header.mode,
        shown=shown,
    )


def _inspect_result(part: Dataset, index: int, config: DataConfig, name: str | None) -> Inspection:
    """What there is of an image where only the data set itself knows how it comes about."""
    wanted = (*config.image_size, config.channels)
    try:
        image, label_id = part[index]
        label_id = int(label_id)
        if image.dtype != np.uint8 or image.shape != wanted:
            raise DataError(f"it is {image.dtype} {image.shape}, not uint8 {wanted}")
        if not 0 <= label_id < max(1, len(part.labels)):
            raise DataError(f"its label id is {label_id}, and there are {len(part.labels)} labels")
    except DataError as error:
        return Inspection(label_id=UNKNOWN, why=error.message)
    except Exception as error:  # a mistake in a plug-in is a finding here
        return Inspection(label_id=UNKNOWN, why=f"{type(error).__name__}: {error}")
    digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    size = image.shape[1], image.shape[0]
    shown = None if name is None else Thumbnail(name=name, label_id=label_id, seen=_small(image))
    return Inspection(label_id=label_id, digest=digest, size=size, shown=shown)


def _small(image: Image.Image | np.ndarray) -> np.ndarray:
    """The image, shrunk where it is larger than what is kept."""
    if max(image.size if isinstance(image, Image.Image) else image.shape[:2]) > MOST_KEPT_SIDE:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        image = ImageOps.contain(image, (MOST_KEPT_SIDE, MOST_KEPT_SIDE), Image.Resampling.LANCZOS)
    pixels = np.array(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


MOST_LISTED = 1000  # unreadable images, and groups of equal ones, that are kept by name
MOST_CLASSES = 16  # that get a row of pictures
_SPARES = 4  # pictures of a class beyond those that are wanted, for what turns out unreadable


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """One of several images that are the same byte for byte."""

    name: str
    split: Split
    label: str | None


@dataclass(kw_only=True)
class Survey:
    """What was found. Sizes (width, height), formats and modes are of the encoded images, upright."""

    labels: tuple[str, ...]
    images: int
    examined: int
    encoded: bool  # whether the images could be had before the data set decodes them
    counts: dict[Split, list[int]]  # images by label id
    all_counted: bool  # also those that were not examined
    sizes: Counter[Size] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    enlarged: int = 0  # images smaller than what is made of them
    unreadable: int = 0
    unreadable_listed: list[tuple[str, str]] = field(default_factory=list)  # place, why
    duplicate_groups: int = 0
    duplicate_images: int = 0  # in all groups
    across_splits: int = 0  # groups with images to train on and held-out ones
    across_labels: int = 0  # groups with different labels
    duplicates_listed: list[list[Duplicate]] = field(default_factory=list)
    shown: list[Thumbnail] = field(default_factory=list)  # by label, in the order of a hash of their names


def survey(
    config: DataConfig,
    parts: Mapping[Split, Dataset],
    *,
    limit: int | None = None,
    per_class: int = 12,
    on_progress: Callable[[float, float], None] = lambda done, total: None,
) -> Survey:
    """Examine all images once, or `limit` of them in even steps; keeps about 32 bytes of each.

    Of each class, `per_class` are shown: the same ones whenever they are examined.
    """
    everything = _Everything(parts)
    count = len(everything) if limit is None else min(limit, len(everything))
    indices = np.linspace(0, len(everything), count, endpoint=False).astype(np.int64)
    label_ids = everything.label_ids[indices]
    picked = _picked(everything, indices, label_ids, per_class + _SPARES)
    known = not (everything.label_ids == UNKNOWN).any()
    found = Survey(
        labels=everything.labels,
        images=len(everything),
        examined=count,
        encoded=all(isinstance(part, ImageDataset) for part in parts.values()),
        counts={},
        all_counted=known,
    )
    digests = np.zeros((count, 2), dtype=np.uint64)  # 0 for what cannot be read
    looks = _in_threads(lambda index: everything.look(index, config, show=index in picked), indices)
    for position, one in enumerate(looks):
        label_ids[position] = one.label_id
        if one.why is None:
            digests[position] = np.frombuffer(one.digest, dtype=np.uint64)
            _add(found, one, config)
        else:
            found.unreadable += 1
            if found.unreadable <= MOST_LISTED:
                found.unreadable_listed.append((everything.place(int(indices[position])), one.why))
        on_progress(position + 1, count)
    found.counts = everything.counts() if known else everything.counts(indices, label_ids)
    found.shown = _first(found.shown, per_class)
    _find_duplicates(found, everything, indices, digests, label_ids)
    return found


class _Everything:
    """The images of all parts, one after the other."""

    def __init__(self, parts: Mapping[Split, Dataset]):
        self.splits, self._parts = list(parts), list(parts.values())
        self._starts = [0, *itertools.accumulate(map(len, self._parts))]
        self.labels = self._parts[0].labels
        self.label_ids = np.concatenate([_label_ids(part) for part in self._parts])

    def __len__(self) -> int:
        return self._starts[-1]

    def numbers(self, indices: np.ndarray) -> np.ndarray:
        """Which part each is in."""
        return np.searchsorted(self._starts, indices, side="right") - 1

    def _number(self, index: int) -> int:
        return next(number for number, end in enumerate(self._starts[1:]) if index < end)

    def split(self, index: int) -> Split:
        return self.splits[self._number(index)]

    def name(self, index: int) -> str:
        number = self._number(index)
        part, inside = self._parts[number], index - self._starts[number]
        if isinstance(part, ImageDataset):
            return part.source.name(int(part.rows[inside]))
        return f"{self.splits[number]} image {inside}"

    def place(self, index: int) -> str:
        number = self._number(index)
        part = self._parts[number]
        return part.place(index - self._starts[number]) if isinstance(part, ImageDataset) else self.name(index)

    def look(self, index: int, config: DataConfig, *, show: bool) -> Inspection:
        number = self._number(index)
        name = self.name(index) if show else ""
        return inspect(self._parts[number], index - self._starts[number], config, name, show=show)

    def counts(self, indices: np.ndarray | None = None, label_ids: np.ndarray | None = None) -> dict[Split, list[int]]:
        """Images by label id of each split: of all, or of those that are given with what was found."""
        indices = np.arange(len(self)) if indices is None else indices
        label_ids = self.label_ids if label_ids is None else label_ids
        counted = {}
        numbers = self.numbers(indices)
        for number, split in enumerate(self.splits):
            ids = label_ids[(numbers == number) & (label_ids >= 0)]
            counted[split] = np.bincount(ids, minlength=max(1, len(self.labels))).tolist()
        return counted


def _label_ids(part: Dataset) -> np.ndarray:
    """Label ids of all images where the data set knows them without reading, else UNKNOWN."""
    ids = getattr(part, "label_ids", None)
    return np.full(len(part), UNKNOWN, dtype=np.int64) if ids is None else np.asarray(ids, dtype=np.int64)


def _in_threads(examine: Callable[[int], Inspection], indices: np.ndarray) -> Iterator[Inspection]:
    """The looks in their order, a few of them made ahead."""
    workers = min(16, (os.cpu_count() or 1) + 1)  # Pillow decodes beside Python
    waiting = map(int, indices)
    with ThreadPoolExecutor(workers, thread_name_prefix="ditkit-survey") as pool:
        ahead = deque(pool.submit(examine, index) for index in itertools.islice(waiting, 4 * workers))
        try:
            while ahead:
                ready = ahead.popleft()
                ahead.extend(pool.submit(examine, index) for index in itertools.islice(waiting, 1))
                yield ready.result()
        finally:
            for future in ahead:
                future.cancel()


def _add(found: Survey, one: Inspection, config: DataConfig) -> None:
    if one.size:
        found.sizes[one.size] += 1
        across, down = one.size[0] / config.image_size[1], one.size[1] / config.image_size[0]
        found.enlarged += (max(across, down) if config.crop == "pad" else min(across, down)) < 1
    if one.format:
        found.formats[one.format] += 1
        found.modes[one.mode] += 1
    if one.shown:
        found.shown.append(one.shown)


def _rank(name: str) -> bytes:
    return hashlib.blake2b(os.fsencode(name), digest_size=8).digest()


def _picked(everything: _Everything, indices: np.ndarray, label_ids: np.ndarray, each: int) -> frozenset[int]:
    """Images to show, of those to train on: of each of the first classes, those whose names have the lowest hashes."""
    training = np.array([split == "train" for split in everything.splits])[everything.numbers(indices)]
    classes = np.unique(label_ids[training])[:MOST_CLASSES].tolist()
    if classes == [UNKNOWN]:  # what is shown is sorted out when the labels are known
        each *= min(MOST_CLASSES, max(1, len(everything.labels)))
    return frozenset(
        index
        for label_id in classes
        for index in heapq.nsmallest(
            each,
            map(int, indices[training & (label_ids == label_id)]),
            key=lambda index: _rank(everything.name(index)),
        )
    )


def _first(shown: Sequence[Thumbnail], each: int) -> list[Thumbnail]:
    """As many as are wanted of each class, by label and hash."""
    ordered = sorted(shown, key=lambda one: (one.label_id, _rank(one.name)))
    classes = itertools.groupby(ordered, key=lambda one: one.label_id)
    return [one for _, group in itertools.islice(classes, MOST_CLASSES) for one in itertools.islice(group, each)]


def _find_duplicates(
    found: Survey, everything: _Everything, indices: np.ndarray, digests: np.ndarray, label_ids: np.ndarray
) -> None:
    """Groups of equal digests, in the order of their first images."""
    order = np.lexsort((indices, digests[:, 1], digests[:, 0]))
    equal = (digests[order[1:]] == digests[order[:-1]]).all(axis=1) & digests[order[1:]].any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
    groups = [order[start : end + 1] for start, end in edges.reshape(-1, 2)]  # each in the order of the images
    for group in sorted(groups, key=lambda group: int(group[0])):
        found.duplicate_groups += 1
        found.duplicate_images += len(group)
        found.across_splits += len({everything.split(int(index)) for index in indices[group]}) > 1
        found.across_labels += len(set(label_ids[group].tolist())) > 1
        if found.duplicate_groups <= MOST_LISTED:
            members = [(int(indices[one]), int(label_ids[one])) for one in group[:MOST_LISTED]]
            found.duplicates_listed.append(
                [
                    Duplicate(
                        name=everything.name(index),
                        split=everything.split(index),
                        label=everything.labels[label_id] if everything.labels else None,
                    )
                    for index, label_id in members
                ]
            )
