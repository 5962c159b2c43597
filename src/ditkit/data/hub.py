"""Images from the Hugging Face hub, hf://user/dataset: parquet tables, or folders and archives of images."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace

from ..config import DataConfig
from ..errors import DataError, UsageError
from ..io.hub import PARQUET, HubAddress, address, is_hub, parse
from ..io.snapshot import files_of, snapshot
from .contract import Split
from .formats import aside, ending, left_out, readable, with_left_out
from .image_dataset import ImageDataset
from .labels.infer import TABLES
from .sources.extract import SUFFIXES
from .sources.idx import IdxImages
from .sources.parquet import SUFFIX, table_images
from .sources.splits import CARD, by_split

_BY_HAND = "or download its files by hand and give their folder with --data-dir"


def dataset(config: DataConfig, split: Split) -> ImageDataset | IdxImages:
    """The images of a repository, downloaded into the cache once. Raises DitkitError where that cannot be."""
    if not is_hub(config.path):
        raise UsageError("the dataset 'hub' needs a repository", "give one: `ditkit train hf://user/dataset`")
    place = parse(str(config.path))
    revision = config.revision or place.revision
    listed = files_of(place.repo, revision=revision, by_hand=f"check the network, {_BY_HAND}")
    tables = [path for path in listed if path.endswith(SUFFIX)]
    images = [path for path in listed if ending(path) in readable(config.reading) or path.lower().endswith(SUFFIXES)]
    others = left_out(None, [ending(path) for path in listed], config.reading)
    if not tables and not images:
        raise DataError(
            f"{address(place.repo, revision)} has no parquet tables, images or archives among its {len(listed)} files"
            f"{aside(others)}",
            PARQUET.format(place.repo),
        )
    info = None
    if CARD in listed:
        info = snapshot(place.repo, revision=revision, wanted=lambda path: path == CARD) / CARD
    files = by_split(tables or images, info, place.subset, place=address(place.repo, revision))
    if tables:
        wanted = {*files["train"], *files["validation"]}
        root = snapshot(place.repo, revision=revision, wanted=wanted.__contains__, by_hand=_by_hand(place, wanted))
        return table_images(config, split, root, files)
    loose = _loose(config, split, place, revision, files["train"])
    return loose if isinstance(loose, IdxImages) else replace(loose, source=with_left_out(loose.source, others))


def _loose(
    config: DataConfig, split: Split, place: HubAddress, revision: str | None, images: Sequence[str]
) -> ImageDataset | IdxImages:
    """Images or archives of them: the folder that holds those for training is as good as one on disk."""
    from .folder import images_at

    above = posixpath.commonpath([posixpath.dirname(path) for path in images])
    below = f"{above}/" if above else ""
    wanted = set(images)

    def needed(path: str) -> bool:
        return path in wanted or (path.startswith(below) and path.rpartition("/")[2] in TABLES)

    root = snapshot(place.repo, revision=revision, wanted=needed, by_hand=_by_hand(place, wanted))
    alone = len(images) == 1 and images[0].lower().endswith(SUFFIXES)
    path = str(root / (images[0] if alone else above))
    config = replace(config, name="folder", path=path, revision=None)
    # Other tools may have fetched files into the same folder that are not for training.
    names = {path.removeprefix(below) for path in files_of(place.repo, revision=revision) if needed(path)}
    return images_at(path, config, split, None if alone else names)


def _by_hand(place: HubAddress, files: set[str]) -> str:
    some = ", ".join(sorted(files)[:3]) + (" …" if len(files) > 3 else "")
    return f"download {some} of {address(place.repo, place.revision)} by hand and give their folder"
