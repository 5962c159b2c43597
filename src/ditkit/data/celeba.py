"""CelebA faces, downloaded or from your disk, labelled by any of their 40 attributes: female and male by default."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..config import DataConfig
from ..errors import DataError, UsageError
from ..io import atomic
from ..io.hub import address
from ..io.paths import cache_dir, expanded
from ..io.progress import notify
from ..io.snapshot import files_of, snapshot
from .contract import Split, holdout
from .formats import readable
from .image_dataset import ImageDataset, image_subset
from .labels import attributes
from .sources.files import find
from .sources.location import is_address, local_folder
from .sources.parquet import SUFFIX, table_images, tables_below
from .sources.splits import by_split

IMAGES, ATTRIBUTES, PARTITION = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"
PACKED = f"{IMAGES}.zip"  # does as well as the folder
SITE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
MALE = "Male"  # the attribute that gives the labels when none is named
NAMES = (  # of the attributes: a wrong one is an error before anything is downloaded
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair "
    "Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup "
    "High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose "
    "Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat "
    "Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
)
REPO, COMMIT = "flwrlabs/celeba", "2d738f56e0e7f925ea36ae7c808ea925264aacec"
LICENCE = f"CelebA is for non-commercial research only: {SITE}"
_WANTED = (
    f"put {IMAGES}/ (the .jpg files), {ATTRIBUTES} and, for the official split, {PARTITION} into one folder and give "
    f"it with --data-dir FOLDER; they come from {SITE}. A folder with train-*{SUFFIX} and valid-*{SUFFIX} of "
    f"{address(REPO)} will do as well"
)


def dataset(config: DataConfig, split: Split) -> ImageDataset:
    """The faces of the official split: of `config.path`, or fetched from the hub. Raises DitkitError without them."""
    if config.label_from or config.label_file:
        raise UsageError("the labels of celeba are its attributes", "leave out --label-from and --label-file")
    config = replace(config, label_by=config.label_by or MALE)
    faces = _from_hub(config, split) if config.path is None else _on_disk(config, split, config.path)
    _show_licence()
    return faces


def _from_hub(config: DataConfig, split: Split) -> ImageDataset:
    revision = config.revision or COMMIT
    attributes.choose(str(config.label_by), NAMES.split())
    listed = files_of(REPO, revision=revision, by_hand=_WANTED)
    tables = [path for path in listed if path.endswith(SUFFIX)]
    files = by_split(tables, None, place=address(REPO, revision))
    wanted = {*files["train"], *files["validation"]}
    root = snapshot(REPO, revision=revision, wanted=wanted.__contains__, by_hand=_WANTED)
    return table_images(config, split, root, files, kind="attribute")


def _on_disk(config: DataConfig, split: Split, path: str) -> ImageDataset:
    if not is_address(path) and not expanded(path).exists():
        raise DataError(f"the folder {expanded(path)} does not exist", _WANTED)
    folder = local_folder(path)
    if (root := _root(folder)) is not None:
        return _as_published(config, split, root)
    if tables := tables_below(folder):
        return table_images(config, split, folder, by_split(tables, None, place=str(folder)), kind="attribute")
    raise DataError(f"there is no folder {IMAGES} in {folder}", _WANTED)


def _root(folder: Path) -> Path | None:
    """The folder that holds `img_align_celeba`: the given one, the one above, or a folder inside."""
    inside = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    for root in (folder, folder / "celeba", *inside):
        if (root / IMAGES).is_dir() or (root / PACKED).is_file():
            return root
    return folder.parent if folder.name == IMAGES else None


def _as_published(config: DataConfig, split: Split, root: Path) -> ImageDataset:
    """The images of the official split. Raises DitkitError when files are missing or malformed."""
    images = root / IMAGES if (root / IMAGES).is_dir() else local_folder(str(root / PACKED))
    source = find(images, readable(config.reading))
    names = list(source.names)
    if not names:
        raise DataError(f"no images in {images}", f"unpack img_align_celeba.zip there, from {SITE}")
    labels, ids = _read_labels(root / ATTRIBUTES, str(config.label_by))
    _check_rows(names, ids, root / ATTRIBUTES)
    label_ids = np.array([ids[name] for name in names])
    rows = _rows_of(split, names, label_ids, root / PARTITION, config.validation)
    if split == "train":
        _check_classes(label_ids[rows], labels, root, len(names))
    return image_subset(config, source, rows, labels, label_ids)


def _rows_of(split: Split, names: list[str], label_ids: np.ndarray, path: Path, count: int) -> Sequence[int]:
    """The images of a split: the official one, or held-out ones where the official one leaves no validation image."""
    official = _read_partition(path) if path.exists() else dict.fromkeys(names, "0")
    _check_rows(names, official, path)
    train = [row for row, name in enumerate(names) if official[name] == "0"]
    validation = [row for row, name in enumerate(names) if official[name] == "1"]
    if validation:
        return train if split == "train" else validation[:count]
    kept, held_out = holdout([names[row] for row in train], label_ids[train], count)
    return [train[index] for index in (kept if split == "train" else held_out)]


def _read_labels(path: Path, label_by: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes that the attributes make, and the id of each image's."""
    lines = _read_lines(path)
    broken = f"get {path.name} again from {SITE} and put it at {path}"
    if len(lines) < 2 or not re.fullmatch(r"\s*[0-9]{1,9}\s*", lines[0]):
        raise DataError(f"{path} does not begin with the number of images and the attributes' names", broken)
    count, names, rows = int(lines[0]), lines[1].split(), lines[2:]
    if len(rows) != count:
        raise DataError(f"{path} says that it has {count} rows, but has {len(rows)}", broken)
    chosen = attributes.choose(label_by, names)
    columns = [names.index(name) + 1 for name in chosen]
    values = {"1": 1, "-1": 0}
    ids: dict[str, int] = {}
    for number, row in enumerate(rows, start=3):
        fields = row.split()
        if len(fields) != len(names) + 1 or any(fields[column] not in values for column in columns):
            raise DataError(f"{path}, line {number}: not a file name and {len(names)} times 1 or -1", broken)
        if fields[0] in ids:
            raise DataError(f"{path}, line {number}: a second row for {fields[0]}", broken)
        ids[fields[0]] = sum(values[fields[column]] << bit for bit, column in enumerate(columns))
    return attributes.labels(chosen), ids


def _read_partition(path: Path) -> dict[str, str]:
    """For each image its split: "0" train, "1" validation, "2" test."""
    partition: dict[str, str] = {}
    broken = f"get {path.name} again from {SITE}, or remove it to split without it"
    for number, row in enumerate(_read_lines(path), start=1):
        fields = row.split()
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise DataError(f"{path}, line {number}: not a file name and 0, 1 or 2", broken)
        if fields[0] in partition:
            raise DataError(f"{path}, line {number}: a second row for {fields[0]}", broken)
        partition[fields[0]] = fields[1]
    return partition


def _read_lines(path: Path) -> list[str]:
    """Lines of a text file without blank ones at its end. Raises DitkitError if it is missing or a web page."""
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


def _check_rows(names: Sequence[str], rows: Collection[str], path: Path) -> None:
    missing = [name for name in names if name not in rows]
    if missing:
        raise DataError(
            f"{path} has no row for {len(missing)} of {len(names)} images: "
            f"{', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}",
            "use the file that belongs to these images, or take these images away",
        )


def _check_classes(label_ids: np.ndarray, labels: tuple[str, ...], root: Path, images: int) -> None:
    if not len(label_ids):
        raise DataError(
            f"none of the {images} images in {root / IMAGES} is in the official train split",
            f"add images, or remove {root / PARTITION} to split without it",
        )
    for label_id, label in enumerate(labels):
        if label_id not in label_ids:
            raise DataError(
                f"no training image in {root / IMAGES} is {label!r}", "add images, or choose another data.label_by"
            )


def _show_licence() -> None:
    """Once in the life of a cache."""
    shown = cache_dir() / "celeba-licence-shown"
    if not shown.exists() and notify(LICENCE):
        with contextlib.suppress(OSError):
            atomic.make_folder(shown.parent)
            shown.touch()
