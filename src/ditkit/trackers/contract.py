"""What a tracker is, and how one is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..registry import TRACKERS


class Tracker(Protocol):
    """Takes a run's figures and pictures to where people look at them. It may raise anything: training goes on."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Figures of a step, as metrics.jsonl has them."""
        ...

    def image(self, step: int, path: Path) -> None:
        """A grid of samples, a PNG."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


def open_tracker(name: str, folder: Path, step: int, config: Mapping[str, Any]) -> Tracker:
    """The tracker of a name, for the run in `folder` that has done `step` steps with these settings.

    Raises UsageError for an unknown one and for a missing package.
    """
    return TRACKERS.load(name)(folder, step, config)
