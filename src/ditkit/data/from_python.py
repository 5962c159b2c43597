"""Your own Dataset or list of images, handed over in Python: `ditkit.train(config, folder, data=mine)`.

An item is `(image, label)`, `{"image": image, "label": label}`, or an image alone, of an unconditional data set. An
image is one of PIL's, or an array or tensor with one, three or four (RGBA) channels: uint8, or float in [0, 1] or
[-1, 1]. Of arrays and tensors the channels may come first or last. A label is a string or a class number.

Float images of a data set have one range, which 32 of its items tell (see `data.arrays`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from ..config import DataConfig, RunConfig
from ..errors import DataError, UsageError, unknown
from ..io.progress import progress
from ..io.text import plural
from .arrays import as_array, as_picture, float_range
from .contract import Dataset, Datasets, Split, holdout
from .decode import fit, to_plain
from .labels.values import named_label
from .levels import is_deep

NAME = "from-python"
PROBED = 32  # items, which are read twice when the data set is opened
_OF_OTHER_DATA = ("path", "revision", "label_by", "label_file", "label_from", "image_column")
_ITEM = 'an item is (image, label), {"image": …, "label": …}, or an image alone'


@dataclass(frozen=True, kw_only=True)
class PythonDataset:
    """Some items of a Dataset or sequence of the user's, as images of one size with label ids (a Dataset).

    The user's `__getitem__` is never called by two threads at once.
    """

    items: Any
    rows: np.ndarray  # int64 (N,): which of the items
    labels: tuple[str, ...]
    fingerprint: str
    float_range: tuple[float, float] | None  # None: no image is of floats
    config: DataConfig
    lock: Any  # of the items

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        row = int(self.rows[index])
        image, label = _read(self.items, row, self.lock)
        picture = as_picture(image, row, self.float_range)
        if is_deep(picture) and self.config.white is None:
            raise UsageError(
                f"item {row} is an image of PIL's mode {picture.mode}, which does not say what is white",
                "say it with data.white (and data.black), or convert the images to 8 bits",
            )
        plain, _ = to_plain(picture, self.config)
        return fit(plain, *self.config.image_size, crop=self.config.crop), _label_id(label, self.labels, row)

    def __getstate__(self) -> dict[str, Any]:  # for worker processes, each with a lock of its own
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=threading.Lock())


def dataset(config: DataConfig, split: Split) -> Dataset:
    """Raises UsageError: only Python has these images."""
    raise UsageError(
        "these images are handed over in Python (data.name is from-python), so they can be found nowhere else",
        "`ditkit.train(config, folder, data=…)` goes on with a run, `ditkit.with_data` opens them for the others",
    )


def with_data(config: RunConfig, data: Any, labels: Sequence[str] | None = None) -> tuple[RunConfig, Datasets]:
    """Settings for images that are handed over, and the images as `find_lr`, `estimate` and `open_judge` take them.

    Args:
        config: its `data.image_size`, `channels` and `crop` say what the images become, and `data.validation` how many
            of them are held out, at most a tenth.
        data: a torch Dataset or a sequence, see `ditkit.data.from_python`; or a pair of them, for training and for
            validation. Its items must be the same each time they are read.
        labels: the names of the classes, in the order of their numbers. If None, `data.classes` if there is one, else
            all items are read once to see which there are: class numbers are then called "0", "1" …

    Raises:
        UsageError: for data that is no such thing, or gives other items when it is read again.
        DataError: for an image that cannot be read.
    """
    settings = replace(config.data, name=NAME, **dict.fromkeys(_OF_OTHER_DATA))
    if isinstance(data, tuple) and len(data) == 2 and _are_labels(data[1]):
        raise UsageError("those are images and labels apart", "join them: data=list(zip(images, labels))")
    train, validation = data if _is_pair(data) else (data, None)
    for items in (train, validation) if validation is not None else (train,):
        _check(items)
    names = _label_names(train, labels)
    make = partial(_opened, labels=names, config=settings, lock=threading.Lock())
    if validation is not None:
        count = min(settings.validation, len(validation))
        held = np.linspace(0, max(len(validation) - 1, 0), count).astype(np.int64)
        datasets = Datasets(train=make(train, np.arange(len(train))), validation=make(validation, held))
    else:
        learnt, held = holdout([f"item {row}" for row in range(len(train))], [0] * len(train), settings.validation)
        datasets = Datasets(train=make(train, learnt), validation=make(train, held))
    return replace(config, data=settings), datasets


def _is_pair(data: Any) -> bool:
    """Whether it is two data sets and not one of two items."""
    return isinstance(data, tuple) and len(data) == 2 and not any(map(_is_item, data))


def _is_item(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return len(value) == 2 and (value[1] is None or isinstance(value[1], str) or _as_int(value[1]) is not None)
    return isinstance(value, (Image.Image, Mapping)) or getattr(value, "ndim", 4) < 4


def _are_labels(values: Any) -> bool:
    """Whether it is a sequence of strings or class numbers."""
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__getitem__") or not len(values):
        return False
    return isinstance(values[0], str) or _as_int(values[0]) is not None


def _check(data: Any) -> None:
    """Raise UsageError for what cannot be read by index."""
    if hasattr(data, "batch_sampler"):
        raise UsageError("that is a DataLoader, whose order and batches ditkit makes itself", "give its .dataset")
    if isinstance(data, (str, bytes, Mapping)) or not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise UsageError(
            f"{type(data).__name__} is no data set: it needs len(data) and data[index]",
            "give a torch Dataset (not an IterableDataset, which cannot go on where it was), or a list of items",
        )
    if not len(data):
        raise UsageError("the data set has no items", "give it some")


def _read(items: Any, row: int, lock: Any = None) -> tuple[Any, Any]:
    """Image and label (None if there is none) of an item. Raises DataError for one that cannot be read."""
    try:
        with lock or threading.Lock():
            item = items[row]
            image, label = _parts(item)
            if isinstance(image, Image.Image):
                image.load()
    except OSError as error:
        raise DataError(f"cannot read item {row}: {error}", "mend it or take it away") from None
    if not isinstance(image, Image.Image) and not hasattr(image, "__array__"):
        kind = type(image).__name__
        what = f"a {type(item).__name__} of {_contents(item)}" if image is None and item is not None else kind
        raise UsageError(f"item {row} of the data is {what}, not an image of PIL, an array or a tensor", _ITEM)
    return image, label


def _parts(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        return item.get("image"), item.get("label")
    if isinstance(item, (tuple, list)):
        return (item[0], item[1]) if len(item) == 2 else (None, None)
    return item, None


def _contents(item: Any) -> str:
    """What a mapping, tuple or list has in it, in words."""
    return ", ".join(map(str, item)) if isinstance(item, Mapping) else f"{len(item)}"


def _as_int(value: Any) -> int | None:
    """A class number: an integer of Python, numpy or torch, also as an array of one."""
    if isinstance(value, (bool, float)):
        return None
    try:
        return int(value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value.__index__())
    except (AttributeError, TypeError, ValueError):
        return None


def _label_names(items: Any, labels: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes. Raises UsageError for what is none."""
    source = labels if labels is not None else _classes(items)
    if source is not None:
        if isinstance(source, str) or not all(isinstance(name, str) for name in source):
            shown = source if isinstance(source, str) else list(source)[:3]
            raise UsageError(f"labels are a list of names, not {shown!r}", 'e.g. labels=["cat", "dog"]')
        names = tuple(named_label(name, f"in {list(source)[:3]!r}") for name in source)
        if len(set(names)) < len(names):
            raise UsageError("two labels have the same name", "each stands for one class number")
        return names
    if _read(items, 0)[1] is None:
        return ()
    with progress(f"reading {plural(len(items), 'item')} for their labels (`labels=` says them at once)") as show:
        seen: set[Any] = set()
        for row in range(len(items)):
            seen.add(_label(_read(items, row)[1], row))
            show(row + 1, len(items))
    if all(isinstance(label, int) for label in seen):
        return tuple(map(str, range(max(seen) + 1)))
    if not all(isinstance(label, str) for label in seen):
        raise UsageError("some labels are strings, and some are numbers", "make them the same, or give labels=[…]")
    return tuple(sorted(seen))


def _classes(items: Any) -> Sequence[str] | None:
    """The names that data sets of torchvision and of Hugging Face's `datasets` have, also parts of the former."""
    features = getattr(items, "features", None)
    if isinstance(features, Mapping):
        return getattr(features.get("label"), "names", None)
    classes = getattr(items, "classes", getattr(getattr(items, "dataset", None), "classes", None))
    return classes if isinstance(classes, (list, tuple)) and classes else None


def _label(label: Any, row: int) -> str | int:
    """A label as a string or an int. Raises UsageError for what is neither."""
    if isinstance(label, str):
        return named_label(label, f"of item {row}")
    number = _as_int(label)
    if number is None or number < 0:
        shown = repr(label)[:50]
        raise UsageError(f"the label of item {row} is {shown}, neither a string nor a class number", _ITEM)
    return number


def _label_id(label: Any, names: tuple[str, ...], row: int) -> int:
    """The class number of a label. Raises UsageError for one that is not among the names."""
    if not names:
        if label is not None:
            raise UsageError(f"item {row} has the label {label!r}, but the first item has none", "give all of them one")
        return 0
    label = _label(label, row)
    if isinstance(label, str):
        if label not in names:
            raise unknown(f"label of item {row}:", label, names)
        return names.index(label)
    if label >= len(names):
        most = f"the names given are those of {', '.join(map(str, range(len(names))))[:50]} only"
        raise UsageError(f"item {row} has the label {label}, but {most}", "give all names, in labels=[…]")
    return label


def _opened(
    items: Any, rows: Sequence[int] | np.ndarray, labels: tuple[str, ...], config: DataConfig, lock: Any
) -> PythonDataset:
    """Some rows of the items, after some of these were read twice. Raises UsageError and DataError."""
    rows = np.asarray(rows, dtype=np.int64)
    probed = rows[np.unique(np.linspace(0, max(len(rows) - 1, 0), PROBED).astype(int))].tolist() if len(rows) else []
    first = [_readable(items, row) for row in probed]
    digests = [_digest(item) for item in first]
    for row, digest in zip(reversed(probed), reversed(digests), strict=True):
        if _digest(_readable(items, row)) != digest:
            raise UsageError(
                f"item {row} is another one each time it is read, so no run could be repeated or continued",
                "leave random transforms out (data.flip mirrors half of the images), and draw nothing in __getitem__",
            )
    about = json.dumps([len(items), labels, digests, hashlib.sha256(rows.tobytes()).hexdigest()])
    opened = PythonDataset(
        items=items,
        rows=rows,
        labels=labels,
        fingerprint=hashlib.sha256(about.encode()).hexdigest(),
        float_range=float_range(
            [as_array(image) for image, _ in filter(None, first) if not isinstance(image, Image.Image)]
        ),
        config=config,
        lock=lock,
    )
    for index in np.searchsorted(rows, probed):
        with contextlib.suppress(DataError):
            opened[int(index)]  # what is wrong with it is said now
    return opened


def _readable(items: Any, row: int) -> tuple[Any, Any] | None:
    """An item; None if it cannot be read, which training may be able to do without."""
    try:
        return _read(items, row)
    except DataError:
        return None


def _digest(item: tuple[Any, Any] | None) -> str:
    """A hash of what an item holds."""
    if item is None:
        return ""
    image, label = item
    array = np.ascontiguousarray(as_array(image))
    mode = image.mode if isinstance(image, Image.Image) else ""
    text = json.dumps([mode, str(array.dtype), array.shape, _as_int(label), str(label)])
    return hashlib.sha256(text.encode() + array.tobytes()).hexdigest()
