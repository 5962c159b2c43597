"""IDX files, in which MNIST and its kin come: all images of a split in one file, all labels in another."""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ...config import DataConfig
from ...errors import DataError, UsageError
from ...io.reading import blaming_the_machine
from ..contract import Split
from ..decode import fit
from ..labels.from_settings import NONE
from ..labels.listing import Layout
from .files import find
from .splits import split_named

MOST_BYTES = 1 << 30
ENDINGS = ("", ".gz", ".idx3-ubyte", ".idx1-ubyte")  # of their names
_NAME = re.compile(r"(.*?)([a-z0-9]*)[-_.](images|labels)[-_.]idx([13])[-_.]ubyte(?:\.gz)?", re.IGNORECASE)
_SPLITS = {"t10k": "test"}  # beside the words that name a split everywhere
_AGAIN = "get it again"


@dataclass(frozen=True, kw_only=True)
class IdxImages:
    """Grey images in memory (a Dataset)."""

    labels: tuple[str, ...]
    fingerprint: str
    images: np.ndarray  # uint8 (N, height, width), as in the file
    label_ids: np.ndarray
    image_size: tuple[int, int]
    channels: int
    layout: Layout | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        pixels = self.images[index][:, :, None]
        if pixels.shape[:2] != self.image_size:
            # Lanczos would ring: a grey halo around strokes that are white on pure black.
            pixels = fit(Image.fromarray(self.images[index]), *self.image_size, Image.Resampling.BILINEAR)
        return np.repeat(pixels, self.channels, axis=2), int(self.label_ids[index])


def read_idx(path: Path, dimensions: int, hint: str = _AGAIN) -> tuple[np.ndarray, str]:
    """One IDX file of bytes, packed by gzip or not, as an array, and the md5 of its content. Raises DataError."""
    try:
        with blaming_the_machine(path), path.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b" or path.suffix == ".gz"
        with gzip.open(path) if is_packed else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            shape = _shape(header, path, dimensions, hint)
            content = file.read(math.prod(shape) + 1)  # a packed file may hold far more than its header says
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cannot be read: {error}", hint) from None
    if len(content) != math.prod(shape):
        raise DataError(f"{path} is damaged: its length is not what its header says", hint)
    md5 = hashlib.md5(header + content, usedforsecurity=False).hexdigest()
    return np.frombuffer(content, dtype=np.uint8).reshape(shape), md5


def _shape(header: bytes, path: Path, dimensions: int, hint: str) -> tuple[int, ...]:
    """The shape that an IDX header states: count, and height and width of images."""
    numbers = struct.unpack(f">{len(header) // 4}I", header[: len(header) // 4 * 4])
    if len(header) != 4 + 4 * dimensions or numbers[0] != 0x0800 + dimensions:
        raise DataError(f"{path} is not an IDX file of {'images' if dimensions == 3 else 'labels'}", hint)
    if min(numbers[1:]) < 1 or math.prod(numbers[1:]) > MOST_BYTES:
        size = "x".join(f"{number}" for number in numbers[1:])
        raise DataError(f"{path} is damaged, or too large: its header says {size}", hint)
    return numbers[1:]


def has_idx(names: Iterable[str]) -> bool:
    """Whether there are images in IDX files among some names."""
    matches = (_NAME.fullmatch(PurePosixPath(name).name) for name in names)
    return any(match and match[3].lower() == "images" for match in matches)


@dataclass(frozen=True, kw_only=True)
class _Files:
    """The IDX files of one set of images, by split and by what they hold."""

    name: str  # what their names begin with
    paths: dict[tuple[str, str], Path]

    def path(self, split: str, content: str) -> Path:
        if (split, content) not in self.paths:
            images = self.paths[split, "images"]
            raise DataError(f"the labels of {images.name} are missing from {images.parent}", "get them, too")
        return self.paths[split, content]

    def of_split(self, split: Split) -> str | None:
        """The files for a split: those for testing are for validation where there are no others, as MNIST has them."""
        names = ("train",) if split == "train" else ("validation", "test")
        return next((name for name in names if (name, "images") in self.paths), None)


def idx_images(folder: Path, config: DataConfig, split: Split) -> IdxImages:
    """The images of the IDX files in a folder. Raises DataError for several sets of them, and for damaged ones."""
    if config.label_by or config.label_file or config.label_from not in (None, NONE):
        raise UsageError("IDX files have their own labels", "leave out --label-by, --label-file and --label-from")
    files = _only_set(folder)
    images, label_ids, md5s = _read_pair(files, "train")
    values, names = np.unique(label_ids), _names(folder, files.name)
    notes = [f"IDX files: {files.path('train', 'images').name} to train on"]
    held = files.of_split("validation")
    if held is not None:
        notes[0] += f", the beginning of {files.path(held, 'images').name} for validation"
    if split == "validation":
        if held is None:
            images, label_ids, md5s = images[:0], label_ids[:0], ("", "")
        else:
            images, label_ids, md5s = _read_pair(files, held)
            known = np.isin(label_ids, values)
            images, label_ids = images[known][: config.validation], label_ids[known][: config.validation]
    if files.name.lower().startswith("emnist"):
        images = images.transpose(0, 2, 1)
        notes.append("the images of EMNIST lie on their sides in its files, and are turned upright")
    labels = tuple(names.get(int(value), str(value)) for value in values) if config.label_from is None else ()
    origin = f"from {files.path('train', 'labels').name}" if labels else "none"
    ids = np.searchsorted(values, label_ids) if labels else np.zeros(len(images), dtype=np.int64)
    return IdxImages(
        labels=labels,
        fingerprint=hashlib.sha256(" ".join([*md5s, str(len(images)), *labels]).encode()).hexdigest(),
        images=images,
        label_ids=ids.astype(np.int64),
        image_size=config.image_size,
        channels=config.channels,
        layout=Layout(labels_from=origin, notes=tuple(notes)),
    )


def _only_set(folder: Path) -> _Files:
    """The one set of images in a folder: of two files that are equal but for packing or depth, the first."""
    sets: dict[str, dict[tuple[str, str], Path]] = {}
    names = sorted(find(folder, ENDINGS).names, key=lambda name: (name.count("/"), len(name), name))
    for path in map(PurePosixPath, names):
        match = _NAME.fullmatch(path.name)
        split = match and (_SPLITS.get(match[2].lower()) or split_named(match[2].lower()))
        if match and split:
            paths = sets.setdefault(match[1].rstrip("-_."), {})
            paths.setdefault((split, match[3].lower()), folder / path)
    sets = {name: paths for name, paths in sets.items() if ("train", "images") in paths}
    if len(sets) != 1:
        what = f"several sets of IDX files: {', '.join(sorted(sets))}" if sets else "no IDX files for training"
        raise DataError(f"{folder} holds {what}", "put the files of one set into a folder of their own, and give that")
    name, paths = next(iter(sets.items()))
    return _Files(name=name, paths=paths)


def _read_pair(files: _Files, split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """The images of a split, uint8 (N, height, width), their labels as they are in the file, and the md5s of both."""
    images, images_md5 = read_idx(files.path(split, "images"), 3)
    labels, labels_md5 = read_idx(files.path(split, "labels"), 1)
    if len(images) != len(labels):
        raise DataError(
            f"{files.path(split, 'images')} has {len(images):,} images, but there are {len(labels):,} labels",
            "get both again from one place",
        )
    return images, labels, (images_md5, labels_md5)


def _names(folder: Path, name: str) -> dict[int, str]:
    """What EMNIST's list says that its numbers stand for: "36 97" is a line of it, and 97 an a."""
    listed = next(iter(sorted(folder.rglob(f"{name}-mapping.txt"))), None)
    if listed is None:
        return {}
    lines = re.findall(r"(?m)^(\d{1,3}) (\d{1,6})\b", listed.read_text(encoding="utf-8", errors="replace"))
    names = {int(number): chr(int(code)) for number, code in lines if int(code) < 0x110000}
    return names if len(set(names.values())) == len(names) and all(map(str.isprintable, names.values())) else {}
