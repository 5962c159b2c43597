"""Whether a run goes on with the images and labels that it has learnt."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..config import RunConfig
from ..errors import CheckpointError, DataError
from ..io.text import composed
from . import manifest
from .folder import RunFolder

FORCED = "images"  # of --force-change


class Images(Protocol):
    """What tells images apart; a Dataset has it, and so does the state of a run."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names in the order of their ids."""
        ...

    @property
    def fingerprint(self) -> str:
        """Text that is another one for other images."""
        ...


@dataclass(frozen=True)
class _Learnt:
    labels: tuple[str, ...]
    fingerprint: str


def check_same_images(
    learnt: Images, images: Images, folder: RunFolder, config: RunConfig, force_change: Collection[str] = ()
) -> None:
    """Raise DataError where images or labels are not those that the run in a folder has learnt."""
    before, other = folder.read_config().data, ""
    if before.path != config.data.path:
        places = [data.path or data.name for data in (before, config.data)]
        other = f": {folder.path} was trained on {places[0]}, and this is {places[1]}"
    ways = "start another run with --name NAME or with --fresh"
    if list(map(composed, learnt.labels)) != list(map(composed, images.labels)):
        raise DataError(
            f"these are not the labels that {folder.path} was started with{other or _compared(learnt, images)}",
            ways if other else f"say where they are from as it did then (--label-from, --label-file), or {ways}",
        )
    if learnt.fingerprint != images.fingerprint and FORCED not in force_change:
        why = other or ": they have changed, or they are read in another way"
        go_on = f"go on with these with --force-change {FORCED}"
        raise DataError(
            f"these are not the images that {folder.path} was started with{why}",
            f"{ways}; or {go_on}" if other else f"put them back, {go_on}, or {ways}",
        )


def check_finished(images: Images, folder: RunFolder, config: RunConfig, force_change: Collection[str] = ()) -> None:
    """The same for a run with nothing left to do, whose checkpoint nothing else is going to read."""
    try:
        newest = folder.newest_whole("state.json")
        state = json.loads(manifest.read_file(newest, "state.json")) if newest else {}
        learnt = _Learnt(tuple(map(str, state["labels"])), str(state["fingerprint"]))
    except (CheckpointError, ValueError, KeyError, TypeError, RecursionError):
        return  # what it has learnt is not known
    check_same_images(learnt, images, folder, config, force_change)


def _compared(then: Images, now: Images) -> str:
    listed = [_listed(images.labels) for images in (then, now)]
    return f": {listed[0]}; now {listed[1]}"


def _listed(labels: Sequence[str]) -> str:
    return (", ".join(labels[:4]) + (" …" if len(labels) > 4 else "")) or "none"
