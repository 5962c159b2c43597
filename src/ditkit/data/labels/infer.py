"""Which label each image of a listing has: from a table, from names, from files beside the images, or from folders."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

import numpy as np

from ...config import DataConfig
from ...errors import DataError, UsageError
from ...io.text import flat, plural
from ..formats import LISTED, aside, ending, left_out, readable, spelled
from ..sources.archive import MemberSource
from . import beside
from .from_settings import FOLDERS, NONE, WITHOUT, check_settings, labels_as_set, without_labels
from .layout import LEFT_OUT, TRAIN, VALIDATION, Folders, Splits, find_splits, only_number
from .listing import Labelled, Listing
from .matching import matched
from .table import read_table
from .values import label_of

TABLES = ("metadata.jsonl", "metadata.csv", "dataset.json")  # of the hub's image folders; of StyleGAN and EDM
USUAL_TABLES = ("labels.csv", "labels.tsv", "labels.jsonl", "labels.json")  # read where nothing else says more
_OF_TABLES = (".csv", ".tsv", ".jsonl")
ALL_EXTENSIONS = frozenset({*LISTED, *beside.EXTENSIONS, *_OF_TABLES})
_BY_FOLDER = "from the folders"
_PHOTOS = frozenset({"image", "images", "img", "imgs", "photos", "jpegimages", "leftimg8bit"})
_MASKS = frozenset({"mask", "masks", "label", "labels", "annotations", "segmentationclass", "gt", "gtfine", "depth"})
_MASK_OF = re.compile(rb"[_.-](masks?|seg|segmentation|gt|label|labels|annotations?)\.[^./]+$", re.IGNORECASE)
_OTHERWISE = "or say --label-from none (no labels) or --label-from folders"


@dataclass(frozen=True, kw_only=True)
class Understood:
    """The images of a listing, their labels, what each is for, and how that was understood."""

    images: Listing
    labelled: Labelled
    parts: np.ndarray | None = None  # int8 (N,): layout.TRAIN …; None: nothing says so


def understand(listing: Listing, config: DataConfig) -> Understood:
    """The images of a listing, with labels and splits.

    Labels are from what the settings name, else from a table among the files, from files beside the images or from
    folders; without any of it there are none, and all ids are 0. Folders around everything are looked through, and
    those called train and test, or so, are splits. Raises DataError without images, DitkitError for contradictions.
    """
    endings = readable(config.reading)
    spelled_endings, of_file = listing.endings
    others = left_out(listing.source, [spelled_endings[number] for number in of_file], config.reading)
    listing = replace(listing, source=replace(listing.source, left_out=others), known_endings=listing.endings)
    images = listing.only(endings)
    if not len(images):
        raise DataError(f"no images in {listing.where}{aside(others)}", f"ditkit reads {spelled()}")
    check_settings(config)
    if config.label_from == FOLDERS:
        labelled = _from_folders(images)
        if not labelled.labels:
            raise DataError(f"--label-from folders: {listing.where} has no folders of images", "leave it out")
        return Understood(images=images, labelled=labelled)
    if config.reading == 1:
        return Understood(images=images, labelled=_at_first(listing, images, config))
    inner, notes = _inside(listing, config), []
    if inner is not listing:
        notes = [f"all images are in {'/'.join(Folders.of(images).around())}/, which is no label"]
        images = inner.only(endings)
    splits = find_splits(images, Folders.of(images))
    notes += splits.notes() if splits else []
    needed = np.ones(len(images), dtype=bool) if splits is None else splits.parts != LEFT_OUT
    labelled = labels_as_set(images, needed, config) or _from_table_among(listing, images, needed, config)
    if labelled is None and splits is not None and splits.depth == 0:
        labelled = _of_each_split(inner, images, splits, config)
        if labelled.origin == WITHOUT:
            labelled = _from_table_among(listing, images, needed, config, USUAL_TABLES) or labelled
    elif labelled is None:
        labelled = _found(listing, images, config)
    parts = splits.parts if labelled.parts is None and splits else labelled.parts
    if parts is not None:
        labelled = _as_in_training(labelled, parts)
    notes += [
        *labelled.notes,
        *_perhaps_masks(labelled),
        *_masks_beside(images),
        *_unread_tables(listing, labelled.origin, config),
    ]
    return Understood(images=images, labelled=replace(labelled, notes=tuple(notes)), parts=parts)


def _perhaps_masks(labelled: Labelled) -> list[str]:
    """A line where folders taken as labels may be photos and what was drawn over them, as for segmentation."""
    names = {name.lower(): name for name in labelled.labels} if labelled.origin == _BY_FOLDER else {}
    photos, masks = ([names[name] for name in names if name in known] for known in (_PHOTOS, _MASKS))
    if not (photos and masks):
        return []
    return [f"the folders {photos[0]} and {masks[0]} are taken as labels; to learn {photos[0]} alone, give that folder"]


def _masks_beside(images: Listing) -> list[str]:
    """A line where images are called like others with `_mask` behind: what was drawn over these, not photos."""
    names = images.source.names
    rows = [row for row in range(len(names)) if _MASK_OF.search(names.raw(row))]
    stems = {names.raw(row).rpartition(b".")[0].lower() for row in range(len(names))} if rows else set()
    masks = [names[row] for row in rows if _MASK_OF.sub(b"", names.raw(row)).lower() in stems]
    if not masks:
        return []
    count = f"{plural(len(masks), 'image')} called like another with more behind, as {flat(masks[0])}"
    return [f"{count}: masks would be learnt as images, so move them away if they are such"]


def _at_first(listing: Listing, images: Listing, config: DataConfig) -> Labelled:
    """As runs of the first reading had it: the top folders are labels, whatever they are called."""
    needed = np.ones(len(images), dtype=bool)
    labelled = labels_as_set(images, needed, config) or _from_table_among(listing, images, needed, config, TABLES[:2])
    return labelled or beside.labels_beside(listing, images, config.label_by)[0] or _from_folders(images)


def _of_each_split(listing: Listing, images: Listing, splits: Splits, config: DataConfig) -> Labelled:
    """The labels in the folder or archive of each split, joined by their names."""
    label_ids, labels, origins = np.full(len(images), -1), dict[str, int](), list[str]()
    notes = list[str]()
    for part in (TRAIN, VALIDATION):
        for number, (name, kind) in enumerate(splits.names.items()):
            rows = np.flatnonzero(splits.numbers == number)
            if kind != part or not len(rows):
                continue
            inside = _of_archive(listing, number) if splits.of_archives else listing.below(name)
            if part == VALIDATION and not labels:
                label_ids[rows] = 0
                continue
            labelled = _found(inside, inside.only(readable(config.reading)), config, only=part == TRAIN)
            if part == TRAIN and origins and bool(labels) != bool(labelled.labels):
                raise DataError(f"only some of {', '.join(splits.names)} in {listing.where} have labels", _OTHERWISE)
            if part == VALIDATION and labels and not labelled.labels:
                notes.append(f"not used: {name} ({plural(len(rows), 'image')}), because they have no labels")
            elif labelled.labels:
                new = [labels.setdefault(label, len(labels)) for label in labelled.labels]
                label_ids[rows] = np.append(new, -1)[labelled.label_ids]
            elif part == TRAIN:
                label_ids[rows] = 0
            origins.append(labelled.origin)
            notes += labelled.notes
    return Labelled(labels=tuple(labels), label_ids=label_ids, origin=origins[0], notes=tuple(notes))


def _of_archive(listing: Listing, number: int) -> Listing:
    assert isinstance(listing.source, MemberSource)
    return listing.take(np.flatnonzero(listing.source.spots["shard"] == number))


def _as_in_training(labelled: Labelled, parts: np.ndarray) -> Labelled:
    """The same with the labels that training images have; what has no other is left out of validation."""
    if not labelled.labels:
        return labelled
    ids = labelled.label_ids
    used = np.unique(ids[(parts == TRAIN) & (ids >= 0)])
    new = np.full(len(labelled.labels) + 1, -1)
    new[used] = np.arange(len(used))
    lost = int(((parts == VALIDATION) & (ids >= 0) & (new[ids] < 0)).sum())
    notes = (
        (f"not used: {plural(lost, 'image')} for validation, with labels that no training image has",) if lost else ()
    )
    labels = tuple(labelled.labels[label] for label in used)
    return replace(labelled, labels=labels, label_ids=new[ids], notes=(*labelled.notes, *notes))


def _inside(listing: Listing, config: DataConfig, *, only: bool = True) -> Listing:
    """What is in the folders around all images; `only`: also in a single one that holds them, beside which none is."""
    folders = Folders.of(listing.only(readable(config.reading)))
    around = folders.around()
    if around in folders.names and (not only or len(listing.tops) > 1):
        around = around[:-1]
    return listing.below("/".join(around) + "/") if around else listing


def _found(listing: Listing, images: Listing, config: DataConfig, *, only: bool = True) -> Labelled:
    """The labels that the files themselves give; `only` as for `_inside`."""
    needed = np.ones(len(images), dtype=bool)
    if (labelled := _from_table_among(listing, images, needed, config)) is not None:
        return labelled
    around, listing = listing, _inside(listing, config, only=only)
    images = listing.only(readable(config.reading))
    labelled, notes = beside.labels_beside(listing, images, config.label_by)
    if labelled is not None:
        return labelled
    if config.label_by is not None:
        tables = ", ".join(name for name in _tables(listing, config) if ending(name) in _OF_TABLES)
        raise UsageError(
            f"there is no table in {listing.where} that could have the column {config.label_by!r}",
            f"give one with --label-file{tables and f' ({tables})'}, or leave out --label-by",
        )
    folders = Folders.of(images)
    if only_number(images, folders):
        return without_labels(images, "the folders only number the images; --label-from folders takes them as labels")
    _check_one_set(listing)
    labelled = _from_folders(images)
    labelled = replace(labelled, notes=(*labelled.notes, *notes))
    usual = _from_table_among(around, images, needed, config, USUAL_TABLES) if labelled.origin == WITHOUT else None
    return usual or labelled


def _from_table_among(
    listing: Listing, images: Listing, needed: np.ndarray, config: DataConfig, names: tuple[str, ...] = TABLES
) -> Labelled | None:
    """The labels of a table with one of some names, in the folder of all images or in one around them."""
    found = _tables(listing, config)
    others = [row for name, row in found.items() if ending(name) in _OF_TABLES]
    row = next((found[name] for name in names if name in found), None)
    if row is None and config.label_by is not None and len(others) == 1:
        row = others[0]  # nothing else can have the column that is named
    if row is None:
        return None
    source, where, guess = listing.source, listing.source.place(row), names is USUAL_TABLES
    try:
        table = read_table(lambda: source.open_bytes(row), where, config.label_by, config.image_column, guess=guess)
        if table is None:
            return None
        return matched(table, images, needed) if table.labels else without_labels(images, f"{where} says so")
    except DataError as error:
        raise DataError(error.message, f"{error.hint}; {_OTHERWISE}") from None


def _tables(listing: Listing, config: DataConfig) -> dict[str, int]:
    """The rows of tables by their names, in the folder of all images or in one around it; the innermost of each."""
    common = Folders.of(listing.only(readable(config.reading))).around()
    found: dict[str, tuple[int, int]] = {}
    for row in map(int, listing.rows({*_OF_TABLES, ".json"})):
        folder, _, table = listing.source.names[row].rpartition("/")
        parts = tuple(folder.split("/")) if folder else ()
        if parts == common[: len(parts)]:
            found[table] = max(found.get(table, (-1, -1)), (len(parts), row))
    return {table: row for table, (_, row) in found.items()}


def _unread_tables(listing: Listing, origin: str, config: DataConfig) -> list[str]:
    """A line about tables that nothing is taken from."""
    if config.label_file is not None or config.label_from == NONE:
        return []
    names = [name for name in _tables(listing, config) if ending(name) in _OF_TABLES and name not in origin]
    if any(name.startswith("list_attr_celeba") for name in names):
        return ["these look like CelebA: `ditkit train celeba --data-dir …` reads its attributes"]
    listed = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return [f"not read: {listed}; --label-file FILE takes labels from a table"] if names else []


def _check_one_set(listing: Listing) -> None:
    names = (listing.source.names[int(row)] for row in listing.rows({*_OF_TABLES, ".json"}))
    inside = [name for name in names if name.count("/") == 1 and name.partition("/")[2] in TABLES]
    if inside:
        raise DataError(
            f"{listing.where} is several sets of images: it holds {', '.join(inside[:5])}",
            f"give the folder of one: {inside[0].partition('/')[0]}",
        )


def _from_folders(images: Listing) -> Labelled:
    names, where, tops = images.source.names, images.where, images.tops
    if not tops:
        return without_labels(images)
    loose = [row for row in range(len(names)) if b"/" not in names.raw(row)]
    if loose:
        raise DataError(
            f"{where} has class folders, but also images beside them: {len(loose)}, the first is {names[loose[0]]}",
            "move them into a class folder or out of the way; --label-from none takes all without labels",
        )
    labels = {top: _folder_name(top, where) for top in tops}
    ids = {label: index for index, label in enumerate(dict.fromkeys(labels.values()))}  # two spellings are one
    of_top = {top: ids[label] for top, label in labels.items()}
    label_ids = np.fromiter(
        (of_top[names.raw(row).partition(b"/")[0]] for row in range(len(names))), dtype=np.int64, count=len(names)
    )
    counts = np.bincount(label_ids, minlength=len(ids))
    empty = [label for label, count in zip(ids, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"no images in the class folder {', '.join(empty[:5])}{' …' if len(empty) > 5 else ''} of {where}"
            f"{aside(images.source.left_out)}",
            f"fill it or remove it; ditkit reads {spelled()}",
        )
    return Labelled(labels=tuple(ids), label_ids=label_ids, origin=_BY_FOLDER, notes=tuple(_joined(images)))


def _joined(images: Listing) -> list[str]:
    """A line where folders inside the class folders have names, which may have been meant as the labels."""
    names = images.source.names
    inner: dict[bytes, set[bytes]] = {}
    for row in range(len(names)):
        top, _, below = names.raw(row).partition(b"/")
        folder, slash, _ = below.partition(b"/")
        if slash and not folder.isdigit():  # numbers only keep folders small
            inner.setdefault(top, set()).add(folder)
    for top, folders in inner.items():
        if len(folders) > 1:
            listed = ", ".join(os.fsdecode(folder) for folder in sorted(folders)[:4])
            return [f"folders inside a class folder belong to it: {os.fsdecode(top)} has {listed}"]
    return []


def _folder_name(folder: bytes, where: str) -> str:
    """A folder's name as a label, whatever encoding the system has for names."""
    try:
        return label_of(folder.decode("utf-8"))
    except UnicodeDecodeError:
        why = "is not UTF-8"
    except ValueError as error:
        why = f"is no label: {error}"
    raise DataError(f"the name of the class folder {os.fsdecode(folder)!r} in {where} {why}", "rename it")
