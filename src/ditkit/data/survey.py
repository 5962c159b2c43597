"""A survey of a data set: counts, sizes, duplicates, unreadable images, and a few images of each class to look at."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from ..config import DataConfig
from ..errors import DataError
from ..io.atomic import update_digest
from .contract import Dataset, Split
from .decode import as_array, crop_box, examine, fit
from .formats import left_out_of
from .image_dataset import ImageDataset
from .labels.listing import Layout
from .prefetch import prefetched

MOST_KEPT_SIDE = 256  # pixels of the thumbnails
UNKNOWN = -1  # label id of an image that cannot be read, of a data set that must read it to know
MOST_LISTED = 1000  # unreadable images, and groups of equal ones, that are kept by name
MOST_CLASSES = 16  # that get a row of thumbnails
_DARK, _FLAT = 16, 8  # levels of 256
_SPARES = 4  # thumbnails of a class beyond those that are wanted, for what turns out unreadable

Size = tuple[int, int]  # width, height


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """An image to look at: `seen` is what the network gets, `original` the whole, `box` the part of it that is used."""

    name: str
    label_id: int
    seen: np.ndarray  # uint8 (height, width, channels), as the others
    original: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom, each from 0 to 1


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What one image is like. Size, format and mode are those of the encoded image, if there is one."""

    label_id: int
    digest: bytes = b""  # 16 bytes: equal for equal files, or for equal pixels where there are no files
    size: Size | None = None
    format: str = ""
    mode: str = ""
    profile: str = ""
    brightest: int = 255  # level of 0 to 255
    range: int = 255  # from its darkest level to its brightest
    shown: Thumbnail | None = None
    why: str | None = None  # it cannot be read


def inspect(part: Dataset, index: int, config: DataConfig, name: str | None) -> Inspection:
    """Examine one image, with a thumbnail of it if a name is given. What is wrong with it is in the answer."""
    if isinstance(part, ImageDataset):
        return _inspect_original(part, index, config, name)
    return _inspect_result(part, index, config, name)


def _inspect_original(part: ImageDataset, index: int, config: DataConfig, name: str | None) -> Inspection:
    """Opened once and read in blocks, whatever its length."""
    row, label_id, config = int(part.rows[index]), int(part.label_ids[index]), part.config
    place = part.source.place(row)
    digest = hashlib.blake2b(digest_size=16)

    def open_and_hash() -> IO[bytes]:
        file = part.source.open_bytes(row)
        update_digest(digest, file)
        file.seek(0)
        return file

    try:
        image, header = examine(open_and_hash, place, config, config.image_size)
        seen = fit(image, *config.image_size, crop=config.crop)
    except DataError as error:
        return Inspection(label_id=label_id, why=error.message.removeprefix(f"cannot read the image {place}: "))
    shown = None
    if name is not None:
        left, top, right, bottom = crop_box(image.size, *config.image_size, config.crop)
        box = left / image.width, top / image.height, right / image.width, bottom / image.height
        shown = Thumbnail(name=name, label_id=label_id, seen=_small(seen), original=_small(image), box=box)
    return Inspection(
        label_id=label_id,
        digest=digest.digest(),
        size=header.size,
        format=header.format,
        mode=header.mode,
        profile=header.profile,
        brightest=int(seen.max()),
        range=_range(seen),
        shown=shown,
    )


def _inspect_result(part: Dataset, index: int, config: DataConfig, name: str | None) -> Inspection:
    """Of an image that only its data set knows how to make: what the network gets."""
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
    except Exception as error:  # a mistake in a plug-in is a result here
        return Inspection(label_id=UNKNOWN, why=f"{type(error).__name__}: {error}")
    digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    size = image.shape[1], image.shape[0]
    shown = None if name is None else Thumbnail(name=name, label_id=label_id, seen=_small(image))
    return Inspection(
        label_id=label_id, digest=digest, size=size, brightest=int(image.max()), range=_range(image), shown=shown
    )


def _range(image: np.ndarray) -> int:
    return int(image.max()) - int(image.min())


def _small(image: Image.Image | np.ndarray) -> np.ndarray:
    """The image, shrunk where it is larger than a thumbnail."""
    if max(image.size if isinstance(image, Image.Image) else image.shape[:2]) > MOST_KEPT_SIDE:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        image = ImageOps.contain(image, (MOST_KEPT_SIDE, MOST_KEPT_SIDE), Image.Resampling.LANCZOS)
    return as_array(image)


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """One of several images that are the same byte for byte."""

    name: str
    split: Split
    label: str | None


@dataclass(kw_only=True)
class Survey:
    """What a data set is like. Sizes (width, height), formats and modes are of the encoded images, upright."""

    labels: tuple[str, ...]
    images: int
    examined: int
    left_out: Mapping[str, int] = field(default_factory=dict)  # files that look like images and are not read
    layout: Layout | None = None  # how the data set was understood, where that had to be found out
    encoded: bool  # whether there are encoded images, which the data set decodes
    all_counted: bool  # `counts` is of all images, also of those that were not examined
    counts: dict[Split, list[int]] = field(default_factory=dict)  # images by label id
    sizes: Counter[Size] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    profiles: Counter[str] = field(default_factory=Counter)  # colour profiles by name
    config: DataConfig = field(default_factory=DataConfig)  # with what was settled when the data set was opened
    dark: int = 0  # images without a level above a sixteenth of white
    flat: int = 0  # images of one colour
    enlarged: int = 0  # images smaller than what is made of them
    unreadable: int = 0
    unreadable_listed: list[tuple[str, str]] = field(default_factory=list)  # place, why
    duplicate_groups: int = 0
    duplicate_images: int = 0  # in all groups
    across_splits: int = 0  # groups with images to train on and held-out ones
    across_labels: int = 0  # groups with different labels
    duplicates_listed: list[list[Duplicate]] = field(default_factory=list)
    shown: list[Thumbnail] = field(default_factory=list)  # by label, in the order of a hash of their names

    def add(self, inspection: Inspection, config: DataConfig) -> None:
        """Count a readable image in."""
        if inspection.size:
            self.sizes[inspection.size] += 1
            across, down = inspection.size[0] / config.image_size[1], inspection.size[1] / config.image_size[0]
            self.enlarged += (max(across, down) if config.crop == "pad" else min(across, down)) < 1
        if inspection.format:
            self.formats[inspection.format] += 1
            self.modes[inspection.mode] += 1
        if inspection.profile:
            self.profiles[inspection.profile] += 1
        self.dark += inspection.brightest < _DARK
        self.flat += inspection.range < _FLAT
        if inspection.shown:
            self.shown.append(inspection.shown)


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
    images = _Images(parts)
    count = len(images) if limit is None else min(limit, len(images))
    indices = np.linspace(0, len(images), count, endpoint=False).astype(np.int64)
    label_ids = images.label_ids[indices]
    picked = _picked(images, indices, label_ids, per_class + _SPARES)
    first = next(iter(parts.values()))
    result = Survey(
        labels=images.labels,
        images=len(images),
        examined=count,
        left_out=left_out_of(first),
        layout=getattr(first, "layout", None),
        config=getattr(first, "config", config),
        encoded=all(isinstance(part, ImageDataset) for part in parts.values()),
        all_counted=not (images.label_ids == UNKNOWN).any(),
    )
    digests = np.zeros((count, 2), dtype=np.uint64)  # 0 for what cannot be read
    threads = min(16, (os.cpu_count() or 1) + 1)  # Pillow decodes beside Python
    inspections = prefetched(
        lambda index: images.inspect(index, config, show=index in picked),
        map(int, indices),
        ahead=4 * threads,
        threads=threads,
        name="ditkit-survey",
    )
    for position, inspection in enumerate(inspections):
        label_ids[position] = inspection.label_id
        if inspection.why is None:
            digests[position] = np.frombuffer(inspection.digest, dtype=np.uint64)
            result.add(inspection, config)
        else:
            result.unreadable += 1
            if result.unreadable <= MOST_LISTED:
                result.unreadable_listed.append((images.place(int(indices[position])), inspection.why))
        on_progress(position + 1, count)
    if result.all_counted:
        result.counts = images.counts(np.arange(len(images)), images.label_ids)
    else:
        result.counts = images.counts(indices, label_ids)
    result.shown = _first_of_each(result.shown, per_class)
    _find_duplicates(result, images, indices, digests, label_ids)
    return result


class _Images:
    """The images of all parts, one after the other."""

    def __init__(self, parts: Mapping[Split, Dataset]):
        self.splits, self._parts = list(parts), list(parts.values())
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self.labels = self._parts[0].labels
        self.label_ids = np.concatenate([_label_ids(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def part_numbers(self, indices: np.ndarray) -> np.ndarray:
        """Which part each image is in."""
        return np.searchsorted(self._starts, indices, side="right") - 1

    def _locate(self, index: int) -> tuple[Split, Dataset, int]:
        """The split and part that an image is in, and its index there."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.splits[number], self._parts[number], index - int(self._starts[number])

    def split(self, index: int) -> Split:
        return self._locate(index)[0]

    def name(self, index: int) -> str:
        split, part, inside = self._locate(index)
        if isinstance(part, ImageDataset):
            return part.source.name(int(part.rows[inside]))
        return f"{split} image {inside}"

    def place(self, index: int) -> str:
        _, part, inside = self._locate(index)
        return part.place(inside) if isinstance(part, ImageDataset) else self.name(index)

    def inspect(self, index: int, config: DataConfig, *, show: bool) -> Inspection:
        _, part, inside = self._locate(index)
        return inspect(part, inside, config, self.name(index) if show else None)

    def duplicate(self, index: int, label_id: int) -> Duplicate:
        label = self.labels[label_id] if self.labels else None
        return Duplicate(name=self.name(index), split=self.split(index), label=label)

    def counts(self, indices: np.ndarray, label_ids: np.ndarray) -> dict[Split, list[int]]:
        """How many of these images each split has, by label id."""
        numbers = self.part_numbers(indices)
        ids = [label_ids[(numbers == number) & (label_ids >= 0)] for number in range(len(self.splits))]
        counts = [np.bincount(part, minlength=max(1, len(self.labels))).tolist() for part in ids]
        return dict(zip(self.splits, counts, strict=True))


def _label_ids(part: Dataset) -> np.ndarray:
    """Label ids of all images where the data set knows them without reading, else UNKNOWN."""
    ids = getattr(part, "label_ids", None)
    return np.full(len(part), UNKNOWN, dtype=np.int64) if ids is None else np.asarray(ids, dtype=np.int64)


def _rank(name: str) -> bytes:
    return hashlib.blake2b(os.fsencode(name), digest_size=8).digest()


def _picked(images: _Images, indices: np.ndarray, label_ids: np.ndarray, each: int) -> frozenset[int]:
    """Training images to show: of each of the first classes, those whose names have the lowest hashes."""
    training = np.array([split == "train" for split in images.splits])[images.part_numbers(indices)]
    classes = np.unique(label_ids[training])[:MOST_CLASSES].tolist()
    if classes == [UNKNOWN]:  # reduced to `each` of a class once the labels are known
        each *= min(MOST_CLASSES, max(1, len(images.labels)))
    candidates = (map(int, indices[training & (label_ids == label_id)]) for label_id in classes)
    return frozenset(
        index
        for group in candidates
        for index in heapq.nsmallest(each, group, key=lambda index: _rank(images.name(index)))
    )


def _first_of_each(shown: Sequence[Thumbnail], each: int) -> list[Thumbnail]:
    """As many as are wanted of each class, by label and hash."""
    ordered = sorted(shown, key=lambda thumbnail: (thumbnail.label_id, _rank(thumbnail.name)))
    classes = itertools.groupby(ordered, key=lambda thumbnail: thumbnail.label_id)
    rows = (itertools.islice(group, each) for _, group in itertools.islice(classes, MOST_CLASSES))
    return list(itertools.chain.from_iterable(rows))


def _find_duplicates(
    result: Survey, images: _Images, indices: np.ndarray, digests: np.ndarray, label_ids: np.ndarray
) -> None:
    """Groups of equal digests, in the order of their first images."""
    order = np.lexsort((indices, digests[:, 1], digests[:, 0]))
    equal = (digests[order[1:]] == digests[order[:-1]]).all(axis=1) & digests[order[1:]].any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
    groups = [order[start : end + 1] for start, end in edges.reshape(-1, 2)]  # each in the order of the images
    for group in sorted(groups, key=lambda group: int(group[0])):
        result.duplicate_groups += 1
        result.duplicate_images += len(group)
        result.across_splits += len({images.split(int(index)) for index in indices[group]}) > 1
        result.across_labels += len(set(label_ids[group].tolist())) > 1
        if result.duplicate_groups <= MOST_LISTED:
            members = ((int(indices[position]), int(label_ids[position])) for position in group[:MOST_LISTED])
            result.duplicates_listed.append([images.duplicate(index, label_id) for index, label_id in members])
