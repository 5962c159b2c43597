"""Models of ditkit's on the hub, hf://user/name: fetched once into the cache, checked, and used from there."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from ..errors import UsageError
from .hub import NOTE, files_of, snapshot
from .place import Place, address, parse

WEIGHTS = "ema.safetensors"
SETTINGS, METRICS = "config.toml", "metrics.jsonl"
_BY_HAND = f"check the network, or download {WEIGHTS} by hand and give its path"


def fetch_model(place: Place, also: Collection[str] = ()) -> Path:
    """The folder with the weights of a model, and what there is of other files, downloaded where missing.

    Raises UsageError for a repository that is not there or holds no model of ditkit's, MachineError for network and
    disk.
    """
    if place.subset:
        raise UsageError(
            f"{address(place.repo)}/{place.subset} is a part of a repository; a model of ditkit's is the whole of one",
            "name it as hf://user/name",
        )
    there = files_of(place.repo, kind="model", revision=place.revision, by_hand=_BY_HAND)
    if WEIGHTS not in there:
        raise UsageError(
            f"{address(place.repo, place.revision)} holds no model of ditkit's: it has no {WEIGHTS}",
            f"other projects' models come in by `ditkit import {place.repo}`",
        )
    wanted = frozenset((WEIGHTS, *also))
    return snapshot(place.repo, kind="model", revision=place.revision, wanted=wanted.__contains__, by_hand=_BY_HAND)


def fetch_weights(word: str, *, ema: bool = True) -> Path:
    """The weights file that hf://user/name[@revision] stands for. Raises as `fetch_model` does."""
    place = parse(word)
    if not ema:
        raise UsageError(f"{address(place.repo)} has averaged weights only", "leave out --no-ema")
    return fetch_model(place) / WEIGHTS


def source_of(folder: Path) -> str:
    """Where a folder that was fetched comes from, with the commit: hf://user/name@0123456789ab."""
    return str(json.loads((folder / NOTE).read_bytes())["source"])
