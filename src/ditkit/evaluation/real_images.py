"""The real images of a model: where its description says, but never fetched from an address that only this names.

A description comes with the weights, from whoever made these.
"""

from __future__ import annotations

from dataclasses import replace

from ..config import DataConfig, RunConfig
from ..data.contract import Dataset, open_dataset
from ..data.sources.location import is_address
from ..errors import UsageError
from ..io.download import offline, offline_within
from ..io.hub import Unreachable, is_hub
from ..io.text import flat
from ..runs.target import data_place


def with_data_at(config: RunConfig, data_dir: str | None) -> RunConfig:
    """The settings with the images at the place that the user names; as they are if none is named.

    Raises UsageError for what is no such place.
    """
    if data_dir is None:
        return config
    place = data_place(data_dir)
    name = "folder" if config.data.name == "hub" and not is_hub(place) else config.data.name
    return replace(config, data=replace(config.data, name=name, path=place))


def open_real_images(config: DataConfig, *, named: bool = False) -> Dataset:
    """The images that a model was trained on.

    From a web address or a repository they are taken if they are in the cache, or if the user has `named` it.

    Raises UsageError for an address that the user has not named, DataError where there are no images.
    """
    place = config.path or ""
    if named or offline() or not (is_address(place) or is_hub(place)):
        return open_dataset(config, "train")
    try:
        with offline_within():
            return open_dataset(config, "train")
    except Unreachable:
        raise UsageError(
            f"the real images are at {flat(place)}, says the model, and nothing is fetched from there unasked",
            f"if you trust it, name it: --data-dir {flat(place)}; or name a folder that holds the images",
        ) from None
