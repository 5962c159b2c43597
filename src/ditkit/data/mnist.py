"""Handwritten digits, 28x28, shipped with ditkit: 60,000 to train on and 10,000 more."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ..config import DataConfig
from ..errors import DataError, UsageError
from .contract import Split
from .sources import idx
from .sources.location import local_folder

LABELS = tuple("0123456789")
SHIPPED = Path(__file__).parent / "mnist_files"
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_STEMS: dict[Split, str] = {"train": "train", "validation": "t10k"}


def dataset(config: DataConfig, split: Split) -> idx.IdxImages:
    """MNIST as shipped, or IDX files of the same layout from `config.path`, a folder or an archive.

    Validation is the start of the t10k set.
    """
    if config.label_by or config.label_file or config.label_from:
        hint = "leave out --label-by, --label-file and --label-from"
        raise UsageError("the digits of mnist have their own labels", hint)
    images, label_ids, md5s = _read(split, None if config.path is None else local_folder(config.path))
    count = len(images) if split == "train" else min(config.validation, len(images))
    return idx.IdxImages(
        labels=LABELS,
        fingerprint=hashlib.sha256(" ".join([*md5s, str(count)]).encode()).hexdigest(),
        images=images[:count],
        label_ids=label_ids[:count],
        image_size=config.image_size,
        channels=config.channels,
    )


def read_images(split: Split, folder: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 (N, 28, 28), and digits, int64 (N,), of the train set or of the whole t10k set."""
    return _read(split, folder)[:2]


def _read(split: Split, folder: Path | None) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    images, images_md5 = _read_idx(f"{_STEMS[split]}-images-idx3-ubyte", 3, folder)
    labels, labels_md5 = _read_idx(f"{_STEMS[split]}-labels-idx1-ubyte", 1, folder)
    if len(images) != len(labels) or not len(labels) or labels.max() > 9:
        raise DataError(
            f"the images and labels in {folder or SHIPPED} do not belong together: "
            f"{len(images)} images, {len(labels)} labels, the largest {labels.max(initial=0)}",
            _hint(folder),
        )
    return images, labels.astype(np.int64), (images_md5, labels_md5)


def _read_idx(name: str, dimensions: int, folder: Path | None) -> tuple[np.ndarray, str]:
    """One file as an array, and the md5 of its content, which shipped files must match."""
    plain = (folder or SHIPPED) / name
    packed = plain.with_name(f"{name}.gz")
    path = plain if plain.is_file() else packed
    if not path.is_file():
        raise DataError(f"{packed.name} is missing from {packed.parent}", _hint(folder))
    array, md5 = idx.read_idx(path, dimensions, _hint(folder))
    if folder is None and md5 != MD5[name]:
        raise DataError(f"{path} is damaged: its md5 is {md5}, not {MD5[name]}", _hint(folder))
    return array, md5


def _hint(folder: Path | None) -> str:
    if folder is None:
        return "reinstall with `pip install --force-reinstall ditkit`"
    return "put the four IDX files there, or leave out --data-dir to use those inside ditkit"
