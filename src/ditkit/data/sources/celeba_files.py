"""The files of CelebA, as the authors, Kaggle and others publish them: where they lie, and what is in them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from ...io.text import plural
from ..labels import attributes
from .files import hidden

IMAGES, ATTRIBUTES, PARTITION = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"
SITE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
_IMAGES = (IMAGES, f"{IMAGES}.zip", f"{IMAGES}_png")  # any will do
_AMONG = (IMAGES, f"{IMAGES}_png", "Img")  # names of folders which the lists are beside, not in
_DEEPEST, _MOST_FOLDERS = 3, 200


@dataclass(frozen=True, kw_only=True)
class CelebaFiles:
    """The images, a folder or an archive, and two lists of them, the second of which need not be there."""

    images: Path
    attributes: Path
    partition: Path


def find_files(folder: Path) -> CelebaFiles | None:
    """The files in a folder or those around or within it: beside each other, or in Img, Anno and Eval.

    None without images. A list that is nowhere is said to be where the authors' would be.
    """
    top = folder
    while top.name in _AMONG and top != top.parent:
        top = top.parent
    folders = list(_folders(top))
    images = next((place / name for name in _IMAGES for place in folders if (place / name).exists()), None)
    if images is None:
        return None
    beside = [images.parent, *folders]
    return CelebaFiles(images=inner(images), attributes=_list(beside, ATTRIBUTES), partition=_list(beside, PARTITION))


def inner(images: Path) -> Path:
    """The folder that holds the images: Kaggle's has another of its name around it."""
    while (within := images / images.name).is_dir():
        images = within
    return images


def _list(folders: list[Path], name: str) -> Path:
    names = (name, f"{Path(name).stem}.csv")
    paths = [folder / name for name in names for folder in folders]
    return next((path for path in paths if path.exists()), paths[0])


def _folders(top: Path) -> Iterator[Path]:
    """A folder and those in it, the outer ones first, without those of images."""
    level = [top]
    for _ in range(_DEEPEST):
        yield from level
        within = (path for folder in level for path in _entries(folder))
        level = [path for path in within if path.is_dir() and not hidden(path.name)][:_MOST_FOLDERS]


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing in one of images, or in one that cannot be read."""
    with contextlib.suppress(OSError):
        return [] if folder.name in _AMONG[:2] else sorted(folder.iterdir())
    return []


def read_attributes(path: Path, label_by: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes that the attributes make, and the id of each image's. Raises DataError for a malformed file."""
    broken = f"get {path.name} again from {SITE} and put it at {path}"
    lines = _read_lines(path)
    is_csv = bool(lines) and "," in lines[0]
    if is_csv:
        names, rows = [cell.strip() for cell in lines[0].split(",")[1:]], lines[1:]
    elif len(lines) < 2 or not re.fullmatch(r"\s*[0-9]{1,9}\s*", lines[0]):
        raise DataError(f"{path} does not begin with the number of images and the attributes' names", broken)
    else:
        names, rows = lines[1].split(), lines[2:]
        if len(rows) != int(lines[0]):
            raise DataError(f"{path} says that it has {plural(int(lines[0]), 'row')}, but has {len(rows)}", broken)
    chosen = attributes.choose(label_by, names)
    columns = [names.index(name) + 1 for name in chosen]
    values = {"1": 1, "-1": 0, **({"0": 0} if is_csv else {})}
    ids: dict[str, int] = {}
    for number, row in enumerate(rows, start=2 if is_csv else 3):
        fields = _fields(row)
        if len(fields) != len(names) + 1 or any(fields[column] not in values for column in columns):
            raise DataError(f"{path}, line {number}: not a file name and {len(names)} times 1 or -1", broken)
        if fields[0] in ids:
            raise DataError(f"{path}, line {number}: a second row for {fields[0]}", broken)
        ids[fields[0]] = sum(values[fields[column]] << bit for bit, column in enumerate(columns))
    return attributes.labels(chosen), ids


def read_partition(path: Path) -> dict[str, str]:
    """For each image its split: "0" train, "1" validation, "2" test. Raises DataError for a malformed file."""
    partition: dict[str, str] = {}
    broken = f"get {path.name} again from {SITE}, or remove it to split without it"
    for number, row in enumerate(_read_lines(path), start=1):
        fields = _fields(row)
        if number == 1 and fields[1:] == ["partition"]:
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise DataError(f"{path}, line {number}: not a file name and 0, 1 or 2", broken)
        if fields[0] in partition:
            raise DataError(f"{path}, line {number}: a second row for {fields[0]}", broken)
        partition[fields[0]] = fields[1]
    return partition


def _fields(row: str) -> list[str]:
    return [field.strip() for field in row.split(",")] if "," in row else row.split()


def _read_lines(path: Path) -> list[str]:
    """Lines of a text file without blank ones at its end. Raises DataError if it is missing or a web page."""
    hint = f"get {path.name} by hand from {SITE} and put it at {path}"
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is not a file", hint)
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip()
    except FileNotFoundError:
        raise DataError(f"{path} is missing", hint) from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text file", hint) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint) from None
    if text.lstrip().startswith("<"):
        raise DataError(f"{path} is a web page, probably a quota or login page instead of the file", hint)
    return text.splitlines()
