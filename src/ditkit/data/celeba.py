"""CelebA faces, downloaded or from your disk, labelled by any of their 40 attributes: female and male by default."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

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
from .labels.listing import Layout
from .sources.celeba_files import (
    ATTRIBUTES,
    IMAGES,
    PARTITION,
    SITE,
    CelebaFiles,
    find_files,
    inner,
    read_attributes,
    read_partition,
)
from .sources.files import find
from .sources.location import is_address, local_folder
from .sources.parquet import SUFFIX, table_images, tables_below
from .sources.splits import by_split

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

T = TypeVar("T")


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
    if (files := find_files(folder)) is not None:
        return _as_published(config, split, files)
    if tables := tables_below(folder):
        return table_images(config, split, folder, by_split(tables, None, place=str(folder)), kind="attribute")
    raise DataError(f"there is no folder {IMAGES} in {folder}", _WANTED)


def _as_published(config: DataConfig, split: Split, files: CelebaFiles) -> ImageDataset:
    """The images of the official split. Raises DitkitError when files are missing or malformed."""
    images = files.images if files.images.is_dir() else inner(local_folder(str(files.images)))
    source = find(images, readable(config.reading))
    names = list(source.names)
    if not names:
        raise DataError(f"no images in {images}", f"unpack img_align_celeba.zip there, from {SITE}")
    labels, ids = read_attributes(files.attributes, str(config.label_by))
    label_ids = np.array(_of_images(names, ids, files.attributes))
    rows = _rows_of(split, names, label_ids, files.partition, config.validation)
    if split == "train":
        _check_classes(label_ids[rows], labels, files, len(names))
    layout = Layout(labels_from=f"from {files.attributes}", notes=_notes(names, files.partition))
    return replace(image_subset(config, source, rows, labels, label_ids), layout=layout)


def _notes(names: Sequence[str], path: Path) -> tuple[str, ...]:
    """What the official split is, in a line, where there is one."""
    if not path.exists():
        return ()
    parts = Counter(_of_images(names, read_partition(path), path))
    unused = f"; not used: {parts['2']:,} for testing" if parts["2"] else ""
    return (f"splits, by {path.name}: {parts['0']:,} to train on, {parts['1']:,} for validation{unused}",)


def _rows_of(split: Split, names: list[str], label_ids: np.ndarray, path: Path, count: int) -> Sequence[int]:
    """The images of a split: the official one, or held-out ones where the official one leaves no validation image."""
    official = _of_images(names, read_partition(path), path) if path.exists() else ["0"] * len(names)
    train = [row for row, part in enumerate(official) if part == "0"]
    validation = [row for row, part in enumerate(official) if part == "1"]
    if validation:
        return train if split == "train" else validation[:count]
    kept, held_out = holdout([names[row] for row in train], label_ids[train], count)
    return [train[index] for index in (kept if split == "train" else held_out)]


def _of_images(names: Sequence[str], rows: Mapping[str, T], path: Path) -> list[T]:
    """What a file says of each image; the aligned images are also published as .png, which the files call .jpg."""
    spelled = [name if name in rows else f"{name.rpartition('.')[0]}.jpg" for name in names]
    _check_rows(spelled, rows, path)
    return [rows[name] for name in spelled]


def _check_rows(names: Sequence[str], rows: Collection[str], path: Path) -> None:
    missing = [name for name in names if name not in rows]
    if missing:
        raise DataError(
            f"{path} has no row for {len(missing)} of {len(names)} images: "
            f"{', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}",
            "use the file that belongs to these images, or take these images away",
        )


def _check_classes(label_ids: np.ndarray, labels: tuple[str, ...], files: CelebaFiles, images: int) -> None:
    if not len(label_ids):
        raise DataError(
            f"none of the {images} images in {files.images} is in the official train split",
            f"add images, or remove {files.partition} to split without it",
        )
    for label_id, label in enumerate(labels):
        if label_id not in label_ids:
            raise DataError(
                f"no training image in {files.images} is {label!r}", "add images, or choose another data.label_by"
            )


def _show_licence() -> None:
    """Once in the life of a cache."""
    shown = cache_dir() / "celeba-licence-shown"
    if not shown.exists() and notify(LICENCE):
        with contextlib.suppress(OSError):
            atomic.make_folder(shown.parent)
            shown.touch()
