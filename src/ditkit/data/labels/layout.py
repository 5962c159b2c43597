"""How the folders of a data set lie: folders around everything, folders of splits, folders that only number images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import DataError
from ...io.text import plural
from ..sources.archive import MemberSource
from ..sources.splits import EXACT, kind_of
from .listing import Listing, common_start

TRAIN, VALIDATION, LEFT_OUT = 0, 1, 2  # parts of a data set
_PARTS = {"train": TRAIN, "validation": VALIDATION, "test": LEFT_OUT}
_FOLDERS = "--label-from folders takes the outer folders as labels, whatever they are called"

Parts = tuple[str, ...]  # of a folder's name


@dataclass(frozen=True)
class Folders:
    """The folders that images are in, each once, and which of them each image is in."""

    names: list[Parts]
    of_image: np.ndarray  # int32 (N,)

    @classmethod
    def of(cls, images: Listing) -> Folders:
        """Those of a listing; the root's parts are none."""
        return cls(*images.around)

    def around(self) -> Parts:
        """The folders that are around all images."""
        return common_start(self.names)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """What each image is for by the folder or the archive that it is in, and the names of those by part."""

    parts: np.ndarray  # int8 (N,): TRAIN, VALIDATION, LEFT_OUT
    names: dict[str, int]  # of folders and archives
    numbers: np.ndarray  # int32 (N,): which of these names
    depth: int  # 0: the folders at the top; 1: those within the folder of each class
    of_archives: bool = False

    def notes(self) -> list[str]:
        """What was understood, in lines."""
        counts = np.bincount(self.parts, minlength=3)
        named = {part: _some([name for name, other in self.names.items() if other == part]) for part in _PARTS.values()}
        text = f"{named[TRAIN]} to train on ({plural(counts[TRAIN], 'image')})"
        if named[VALIDATION]:
            text += f", {named[VALIDATION]} for validation ({counts[VALIDATION]:,})"
        lines = [f"splits, by name: {text}"]
        if named[LEFT_OUT]:
            lines.append(f"not used: {named[LEFT_OUT]} ({plural(counts[LEFT_OUT], 'image')}), for testing by name")
        return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" … {names[-1]}" if len(names) > 4 else "")


def find_splits(images: Listing, folders: Folders) -> Splits | None:
    """The splits that archives or folders are called after: train and test, or so; None where they are not.

    Raises DataError where some are and others are not, and where none is for training.
    """
    source = images.source
    if isinstance(source, MemberSource) and len(source.archives) > 1:
        stems = [(archive.path.stem,) for archive in source.archives]
        parts = _kinds(stems, 0, images.where)
        if parts is not None:
            shards = source.spots["shard"].astype(np.int32)
            names = {archive.path.name: part for archive, part in zip(source.archives, parts, strict=True)}
            return Splits(parts=parts[shards], names=names, numbers=shards, depth=0, of_archives=True)
    for depth in (0, 1):
        parts = _kinds(folders.names, depth, images.where)
        if parts is not None:
            tops = [folder[depth] for folder in folders.names]
            order = {name: number for number, name in enumerate(dict.fromkeys(tops))}
            numbers = np.array([order[name] for name in tops], dtype=np.int32)[folders.of_image]
            names = {f"{name}/": int(part) for name, part in zip(tops, parts, strict=True)}
            return Splits(parts=parts[folders.of_image], names=names, numbers=numbers, depth=depth)
    return None


def _kinds(folders: Sequence[Parts], depth: int, where: str) -> np.ndarray | None:
    """The part of each folder by its name at a depth, int8; None where they are no splits."""
    if any(len(folder) <= depth for folder in folders):
        return None
    names = list(dict.fromkeys(folder[depth] for folder in folders))
    groups: dict[str, dict[str, str]] = {}  # by what else the names say: train and test, seg_train and seg_test
    for name in names:
        kind = kind_of(name)
        if kind is not None:
            groups.setdefault(kind[1], {})[name] = kind[0]
    chosen = next((group for group in groups.values() if {"train"} < set(group.values())), None)
    if chosen is None and depth == 0 and len(groups) == 1:
        group = next(iter(groups.values()))
        chosen = group if len(group) == len(names) and set(group.values()) == {"train"} else None
        if len(names) > 1 and "train" not in group.values() and EXACT.issuperset(map(str.lower, names)):
            raise DataError(
                f"none of the folders {', '.join(names)} of {where} is for training, by their names",
                f"give the one that is: --data-dir …/{names[0]}; {_FOLDERS}",
            )
    if chosen is None:
        return None
    other = [name for name in names if name not in chosen]
    if (
        len(groups) > 1 and "" not in groups and sum(map(len, groups.values())) == len(names)
    ):  # train_cat, test_cat, train_dog …
        first = next(iter(chosen))
        split, label = kind_of(first) or ("train", "")
        raise DataError(
            f"the folders {', '.join(names[:4])} of {where} name a split and a label each",
            f"make folders of labels in folders of splits: {split}/{label} instead of {first}; {_FOLDERS}",
        )
    if other:
        train = next(name for name, split in chosen.items() if split == "train")
        raise DataError(
            f"{where} has folders of splits ({', '.join(list(chosen)[:4])}), but also others: {', '.join(other[:4])}",
            f"move these away, or give the folder to train on: --data-dir …/{train}; {_FOLDERS}",
        )
    return np.array([_PARTS[chosen[folder[depth]]] for folder in folders], dtype=np.int8)


def only_number(images: Listing, folders: Folders) -> bool:
    """Whether folders are called 00000, 00001 … or 00000, 01000 … after the numbers of the images in them.

    So do the tools of StyleGAN and EDM, and FFHQ, put a thousand images into each.
    """
    if len(folders.names) < 2 or not all(
        len(name) == 1 and re.fullmatch("[0-9]{5}", name[0]) for name in folders.names
    ):
        return False
    tops = np.array([int(name[0]) for name in folders.names])[folders.of_image]
    numbers = np.full(len(images), -1)
    for row in range(len(images)):
        match = re.fullmatch(rb"(?:img)?([0-9]{5,8})\.[^.]+", images.source.names.raw(row).rpartition(b"/")[2])
        if match is None:
            return False
        numbers[row] = int(match[1])
    thousands = numbers // 1000
    return bool((thousands == tops).all() or (thousands * 1000 == tops).all())
