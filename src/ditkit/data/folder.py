"""Your own images: one subfolder per class, or no subfolders."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from ..config import DataConfig
from ..downloads.place import is_hub
from ..errors import DataError
from .contract import Split
from .files import FileSource, hidden, scan
from .hub import dataset as of_repository
from .pictures import Pictures, pictures
from .places import local_folder
from .tables import folder_of_tables, tables_below
from .transforms import EXTENSIONS


def dataset(config: DataConfig, split: Split) -> Pictures:
    """The images below `config.path`. Raises DitkitError when there are none, or none in a class."""
    if is_hub(config.path):
        return of_repository(config, split)
    root = _root(config.path)
    sizes = scan(root)
    if not sizes and tables_below(root):
        return folder_of_tables(config, split, root)
    if not sizes:
        raise DataError(f"no images in {root}", f"ditkit reads {' '.join(sorted(EXTENSIONS))}")
    folders = _class_folders(root)
    labels = tuple(_spelled(name, root) for name in folders)
    label_ids = _label_ids(root, list(sizes), folders)
    return pictures(config, split, FileSource(root, tuple(sizes)), tuple(sizes.values()), labels, label_ids)


def _root(path: str | None) -> Path:
    if path is None:
        raise DataError("the dataset 'folder' needs a folder of images", "give it with --data-dir FOLDER")
    return local_folder(path)


def _class_folders(root: Path) -> list[str]:
    folders = [entry.name for entry in root.iterdir() if entry.is_dir() and not hidden(entry.name)]
    return sorted(folders, key=os.fsencode)


def _spelled(name: str, root: Path) -> str:
    """A folder's name as text, whatever encoding the system has for names."""
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"the name of the class folder {name!r} in {root} is not UTF-8", "rename it") from None


def _label_ids(root: Path, names: list[str], folders: list[str]) -> list[int]:
    if not folders:
        return [0] * len(names)
    loose = [name for name in names if "/" not in name]
    if loose:
        raise DataError(
            f"{root} has class folders, but also images beside them: {len(loose)}, the first is {loose[0]}",
            "move them into a class folder or out of the way",
        )
    ids = {folder: index for index, folder in enumerate(folders)}
    label_ids = [ids[name.partition("/")[0]] for name in names]
    counts = Counter(label_ids)
    empty = [folder for folder in folders if not counts[ids[folder]]]
    if empty:
        raise DataError(
            f"no images in the class folder {', '.join(empty[:5])}{' …' if len(empty) > 5 else ''} of {root}",
            f"fill it or remove it; ditkit reads {' '.join(sorted(EXTENSIONS))}",
        )
    return label_ids
