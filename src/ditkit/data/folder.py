"""Your own images: a folder or archive with one subfolder per class, a table of labels, or no labels at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from ..config import DataConfig
from ..errors import DataError
from ..io.hub import is_hub
from ..io.paths import as_stored, expanded
from .contract import Split
from .formats import readable
from .hub import dataset as of_repository
from .image_dataset import ImageDataset, image_dataset, image_subset
from .labels.infer import ALL_EXTENSIONS, TABLES, USUAL_TABLES, Understood, understand
from .labels.layout import TRAIN, VALIDATION
from .labels.listing import Layout, Listing
from .sources.archive import Archive, look_up
from .sources.files import find, hidden, stamp
from .sources.idx import ENDINGS, IdxImages, has_idx, idx_images
from .sources.location import from_where, local_folder, local_images
from .sources.parquet import folder_of_tables, tables_below

_LOOKED_FOR = ALL_EXTENSIONS | set(ENDINGS)


def dataset(config: DataConfig, split: Split) -> ImageDataset | IdxImages:
    """The images at `config.path`: a folder, an archive, a folder of archives or of tables, a hub repository.

    Raises DitkitError when there are none, or when it is not clear which label each has.
    """
    if config.path is None:
        raise DataError("the dataset 'folder' needs a folder of images", "give it with --data-dir FOLDER")
    if is_hub(config.path):
        return of_repository(config, split)
    return images_at(config.path, config, split)


def images_at(
    path: str, config: DataConfig, split: Split, names: Collection[str] | None = None
) -> ImageDataset | IdxImages:
    """The images at a path; of a folder only the files with these names, if any are given. Raises as `dataset` does."""
    place = local_images(path)
    listing = None if place.is_file() else _on_disk(place, names)
    archives = [place] if listing is None else _archives(listing, place, config, names)
    if listing is not None and not archives:
        if not len(listing.rows(readable(config.reading))):
            if tables_below(place):
                return folder_of_tables(config, split, place)
            if has_idx(listing.source.names):
                return idx_images(place, config, split)
        understood = understand(listing, config)
    else:
        if config.label_file is None and config.label_from is None and (table := _table_beside(place)) is not None:
            config = replace(config, label_file=as_stored(table))
        understood = _in_archives(place, tuple(map(Archive.at, archives)), _stamp(config.label_file), config)
    if understood is None:
        return idx_images(local_folder(path), config, split)
    return _of_split(understood, config, split)


def _of_split(understood: Understood, config: DataConfig, split: Split) -> ImageDataset:
    """The images of a split: of the one that the data set itself has, or of one made by holding images out."""
    source, labelled = understood.images.source, understood.labelled
    labels, ids, parts = labelled.labels, labelled.label_ids, understood.parts
    layout = Layout(labels_from=labelled.origin, notes=labelled.notes)
    train = np.arange(len(ids)) if parts is None else np.flatnonzero((parts == TRAIN) & (ids >= 0))
    validation = [] if parts is None else np.flatnonzero((parts == VALIDATION) & (ids >= 0))
    if not len(validation):
        images = image_dataset(config, split, source.take(train), labels, ids[train])
    else:
        count = min(config.validation, len(validation))
        spread = np.linspace(0, len(validation), count, endpoint=False, dtype=np.int64)  # they are sorted by label
        rows = train if split == "train" else np.asarray(validation)[spread]
        images = image_subset(config, source, rows, labels, ids)
    return replace(images, layout=layout)


def _on_disk(root: Path, names: Collection[str] | None = None) -> Listing:
    folders = list[bytes]()
    source = find(root, _LOOKED_FOR, folders)
    if names is not None:
        source = source.take(np.flatnonzero([name in names for name in source.names]))
        around = {os.fsencode(parent) for name in names for parent in PurePosixPath(name).parents}
        folders = [folder for folder in folders if folder in around]
    return Listing(where=str(root), source=source, folders=folders)


def _archives(listing: Listing, folder: Path, config: DataConfig, names: Collection[str] | None = None) -> list[Path]:
    """The archives of a folder that holds no images itself, in byte order of their names."""
    if len(listing.rows(readable(config.reading))):
        return []
    paths = (path for path in folder.iterdir() if path.suffix.lower() in (".zip", ".tar") and path.is_file())
    paths = (path for path in paths if names is None or path.name in names)
    return sorted((path for path in paths if not hidden(path.name)), key=os.fsencode)


def _table_beside(place: Path) -> Path | None:
    """The table in a folder of archives."""
    return next((place / name for name in (*TABLES, *USUAL_TABLES) if (place / name).is_file()), None)


@lru_cache(maxsize=1)  # for training and for validation, before torch has loaded and after
def _in_archives(place: Path, archives: tuple[Archive, ...], stamp: object, config: DataConfig) -> Understood | None:
    """The images in archives; None for one of IDX files."""
    try:
        source, folders = look_up(archives, _LOOKED_FOR)
    except DataError as error:
        raise from_where(error, config.path or "") from None
    listing = Listing(where=str(place), source=source, folders=folders)
    if len(archives) == 1 and not len(listing.rows(readable(config.reading))) and has_idx(source.names):
        return None
    return understand(listing, config)


def _stamp(path: str | None) -> object:
    """Another value once the file has been changed."""
    with contextlib.suppress(OSError):
        return path and stamp(expanded(path))
