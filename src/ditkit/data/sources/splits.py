"""Which files of a published dataset are for training, and which for validation: by its card, or by their names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError, UsageError
from ..formats import ENDINGS, ending

CARD = "README.md"
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLITS = {word: split for split, words in _WORDS.items() for word in words}
EXACT = frozenset(_SPLITS)  # the words that name a split
_SAY_NOTHING = ("", "data", "split", "folder", "image", "images", "imgs", "photos", "jpg", "png")


def by_split(paths: Sequence[str], info: Path | None, subset: str = "", *, place: str) -> dict[str, list[str]]:
    """The paths for "train" and for "validation" (perhaps none), in order.

    `subset` is one of the configurations that the card names, or a folder. Raises UsageError for an unknown one, and
    where there are several and none is the default; DataError where nothing is for training.
    """
    configurations = _configurations(info)
    if subset and subset not in configurations:
        inside = [path for path in paths if path.startswith(f"{subset}/")]
        if not inside:
            names = f"; it has {', '.join(configurations)}" if configurations else ""
            raise UsageError(f"{place} has no configuration or folder {subset!r}{names}", "check the address")
        return _named(inside, place, subset)
    chosen = subset or _default(configurations, place)
    matched = _matched(paths, configurations[chosen], place) if chosen else {}
    return matched if matched.get("train") else _named(paths, place)


def split_of(path: str) -> str | None:
    """What a file is for, by a word in its name, else by one in a folder's: `data/train-00000-of-00002.parquet`.

    The name of a single image says nothing.
    """
    parts = path.lower().split("/")
    if ending(path) in ENDINGS:
        parts.pop()
    for part in reversed(parts):
        words = re.split(r"[^a-z]+", part)
        for word in words:
            if word in _SPLITS and "partial" not in words:
                return _SPLITS[word]
    return None


def split_named(word: str) -> str | None:
    """The split that a word names: "validation" for `val`."""
    return _SPLITS.get(word)


def kind_of(name: str) -> tuple[str, str] | None:
    """The split that a folder is called after, and what else its name says: ("train", "seg") of `seg_train`.

    None where it names none, or two.
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()  # trainImages
    words = [word.removesuffix("set") for word in re.split(r"[\W\d_]+", apart) if word]
    splits = [_SPLITS[word] for word in words if word in _SPLITS]
    if len(splits) != 1 or "partial" in words:
        return None
    return splits[0], " ".join(word for word in words if word not in _SPLITS and word not in _SAY_NOTHING)


def _named(paths: Sequence[str], place: str, below: str = "") -> dict[str, list[str]]:
    splits = {path: split_of(path[len(below) :]) for path in paths}
    files = {split: sorted(path for path in paths if splits[path] == split) for split in ("train", "validation")}
    if not files["train"]:
        files["train"] = sorted(path for path in paths if splits[path] is None)
    if not files["train"]:
        raise DataError(
            f"none of the {len(paths)} files of {place} is for training, by their names: {', '.join(paths[:3])}",
            "give the folder or the configuration that is",
        )
    return files


def _configurations(info: Path | None) -> dict[str, Any]:
    """The `configs` at the head of a dataset card: name to the whole entry."""
    if info is None or not info.is_file():
        return {}
    from huggingface_hub import metadata_load

    try:
        head = metadata_load(info) or {}
        return {str(entry["config_name"]): entry for entry in head.get("configs") or [] if entry.get("data_files")}
    except Exception:  # of the YAML library; a card that cannot be read says nothing
        return {}


def _default(configurations: Mapping[str, Any], place: str) -> str | None:
    if len(configurations) < 2:
        return next(iter(configurations), None)
    for name, entry in configurations.items():
        if entry.get("default") or name == "default":
            return name
    names = list(configurations)
    raise UsageError(
        f"{place} has several configurations: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}",
        f"choose one by a word more in the address: {place.partition('@')[0]}/{names[0]}",
    )


def _matched(paths: Sequence[str], entry: Any, place: str) -> dict[str, list[str]]:
    """The files that a configuration's patterns name; those without a split are for training."""
    listed = entry["data_files"]
    if isinstance(listed, (str, Mapping)) or all(isinstance(entry, str) for entry in listed):
        listed = [{"split": "train", "path": listed}] if not isinstance(listed, Mapping) else [listed]
    files: dict[str, list[str]] = {"train": [], "validation": []}
    for row in listed:
        split = _SPLITS.get(str(row.get("split", "train")).lower())
        patterns = row["path"] if isinstance(row["path"], list) else [row["path"]]
        if split in files:
            files[split] += sorted(path for path in paths if any(_fits(path, str(pattern)) for pattern in patterns))
    return files


def _fits(path: str, pattern: str) -> bool:
    """Whether a pattern as in the shell names a path; it may name a folder."""
    pattern = pattern.removeprefix("./").rstrip("/")
    return fnmatch.fnmatchcase(path, pattern.replace("**/", "*")) or path.startswith(f"{pattern}/")
