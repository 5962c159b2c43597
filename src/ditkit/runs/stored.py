"""Settings of earlier runs: what they do not say means what it did then, and a run goes on with what it settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .. import recipes
from ..config import RunConfig


def stored_config(tree: Mapping[str, Any]) -> RunConfig:
    """The settings in the files of a run or of weights. Raises UsageError for what is unknown or wrong in them.

    One that does not say how its images are read is older than that choice.
    """
    tree = dict(tree)
    if isinstance(tree.setdefault("data", {}), Mapping):
        tree["data"] = {"reading": 1, **tree["data"]}
    return recipes.build(tree)


def continued(config: RunConfig, run: RunConfig) -> RunConfig:
    """The settings for going on with a run, with what it settled when it began: how its images are read."""
    wanted, data = config.data, run.data
    return replace(
        config,
        data=replace(
            wanted,
            reading=data.reading,
            black=data.black if wanted.black is None else wanted.black,
            white=data.white if wanted.white is None else wanted.white,
            background=wanted.background or data.background,
        ),
    )
