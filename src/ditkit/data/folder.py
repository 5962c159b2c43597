"""Your own images: a folder or archive with one subfolder per class, a table of labels, or no labels at all."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..config import DataConfig
from ..errors import DataError
from ..io.hub import is_hub
from ..io.paths import as_stored, expanded
from .contract import Split
from .decode import EXTENSIONS
from .hub import dataset as of_repository
from .image_dataset import ImageDataset, image_dataset
from .labels.infer import ALL_EXTENSIONS, TABLES, Labelled, Listing, labelled
from .sources.archive import Archive, look_up
from .sources.files import FileSource, find, hidden
from .sources.location import from_where, local_images
from .sources.parquet import folder_of_tables, tables_below


def dataset(config: DataConfig, split: Split) -> ImageDataset:
    """The images at `config.path`: a folder, an archive, a folder of archives or of tables, a hub repository.

    Raises DitkitError when there are none, or when it is not clear which label each has.
    """
    if config.path is None:
        raise DataError("the dataset 'folder' needs a folder of images", "give it with --data-dir FOLDER")
    if is_hub(config.path):
        return of_repository(config, split)
    place = local_images(config.path)
    listing = None if place.is_file() else _on_disk(place)
    archives = [place] if listing is None else _shards(listing, place)
    if listing is not None and not archives and not len(listing.rows(EXTENSIONS)) and tables_below(place):
        return folder_of_tables(config, split, place)
    if listing is not None and not archives:
        images, labels = _images(listing, config)
    else:
        if config.label_file is None and (table := _table_beside(place)) is not None:
            config = replace(config, label_file=as_stored(table))
        images, labels = _in_archives(place, tuple(map(Archive.at, archives)), _stamp(config.label_file), config)
    return image_dataset(config, split, images.source, images.sizes, *labels)


def _images(listing: Listing, config: DataConfig) -> tuple[Listing, Labelled]:
    """The images of a listing, and their labels. Raises DataError when there are none."""
    images = listing.take(listing.rows(EXTENSIONS))
    if not len(images.names):
        raise DataError(f"no images in {listing.where}", f"ditkit reads {' '.join(sorted(EXTENSIONS))}")
    return images, labelled(listing, images, config)


def _on_disk(root: Path) -> Listing:
    names, sizes = find(root, ALL_EXTENSIONS)
    folders = [os.fsencode(entry.name) for entry in root.iterdir() if entry.is_dir() and not hidden(entry.name)]
    return Listing(
        where=str(root),
        source=FileSource(root, names),
        names=names,
        sizes=sizes,
        shards=np.zeros(len(names), dtype=np.uint8),
        folders=sorted(folders),
    )


def _shards(listing: Listing, folder: Path) -> list[Path]:
    """The archives of a folder that holds no images itself, in byte order of their names."""
    if len(listing.rows(EXTENSIONS)):
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in (".zip", ".tar") and path.is_file())
    return sorted((path for path in found if not hidden(path.name)), key=os.fsencode)


def _table_beside(place: Path) -> Path | None:
    """The table in a folder of archives."""
    return next((place / name for name in TABLES if (place / name).is_file()), None)


@lru_cache(maxsize=1)  # for training and for validation, before torch has loaded and after
def _in_archives(
    place: Path, archives: tuple[Archive, ...], stamp: object, config: DataConfig
) -> tuple[Listing, Labelled]:
    try:
        source, folders = look_up(archives, ALL_EXTENSIONS)
    except DataError as error:
        raise from_where(error, config.path or "") from None
    listing = Listing(
        where=str(place),
        source=source,
        names=source.names,
        sizes=source.spots["size"],
        shards=source.spots["shard"],
        folders=folders,
    )
    return _images(listing, config)


def _stamp(path: str | None) -> object:
    """Another value once the file has been changed."""
    with contextlib.suppress(OSError):
        status = expanded(path).stat() if path is not None else None
        return status and (status.st_size, status.st_mtime_ns)
