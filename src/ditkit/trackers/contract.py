"""Tracker, and the listener that feeds them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..config import RunConfig, to_dict
from ..errors import UsageError
from ..events import Evaluated, Event, Finished, Sampled, Started, Stepped, Validated
from ..io.packages import check_packages
from ..registry import TRACKERS

_PACKAGES = ("tensorboard", "wandb")  # that a tracker of their name needs


class Tracker(Protocol):
    """Sends a run's figures and pictures to a service. It may raise anything: training continues."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Figures of a step, as metrics.jsonl has them."""
        ...

    def image(self, step: int, path: Path) -> None:
        """A grid of samples, a PNG."""
        ...

    def close(self) -> None:
        """The run has ended."""
        ...


def check_names(words: Sequence[str]) -> tuple[str, ...]:
    """The names of trackers, each once. Raises UsageError for one that is unknown or misses its package."""
    names = tuple(dict.fromkeys(TRACKERS.check(word) for word in words))
    for name in names:
        if name in _PACKAGES:
            check_packages(f"--track {name}", [name], name, "leave it out")
    return names


def open_tracker(name: str, folder: Path, step: int, config: Mapping[str, Any]) -> Tracker:
    """The tracker of a name, for the run in `folder` that has done `step` steps with these settings.

    Raises UsageError for an unknown one and for a missing package.
    """
    return TRACKERS.load(name)(folder, step, config)


class Tracking:
    """Sends events to the named trackers; `notify` is called with a line on one that fails, which is then left out.

    Of several processes only the main one should have it. Raises UsageError for a missing package, when the run
    starts.
    """

    def __init__(self, names: Sequence[str], config: RunConfig, notify: Callable[[str], None]):
        self._names, self._config, self._notify = tuple(dict.fromkeys(names)), config, notify
        self._trackers: dict[str, Tracker] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            for name in self._names:
                self._try(name, lambda name=name, event=event: self._open(name, event.folder, event.step))
        elif isinstance(event, Stepped):
            self._all(lambda tracker: tracker.log(event.step, event.metrics or {"loss": event.loss, "lr": event.lr}))
        elif isinstance(event, Validated):
            self._all(lambda tracker: tracker.log(event.step, {"validation_loss": event.loss}))
        elif isinstance(event, Evaluated):
            self._all(lambda tracker: tracker.log(event.step, {"kid": event.kid, "kid_error": event.error}))
        elif isinstance(event, Sampled):
            self._all(lambda tracker: tracker.image(event.step, event.path))
        elif isinstance(event, Finished):
            self.close()

    def close(self) -> None:
        """End all trackers, however the run ended."""
        self._all(lambda tracker: tracker.close())
        self._trackers = {}

    def _open(self, name: str, folder: Path, step: int) -> None:
        self._trackers[name] = open_tracker(name, folder, step, to_dict(self._config))

    def _all(self, work: Callable[[Tracker], Any]) -> None:
        for name, tracker in list(self._trackers.items()):
            self._try(name, lambda tracker=tracker: work(tracker))

    def _try(self, name: str, work: Callable[[], Any]) -> None:
        try:
            work()
        except UsageError:
            raise
        except Exception as error:  # a service that is down must not cost a run
            failed = self._trackers.pop(name, None)
            if failed is not None:
                with contextlib.suppress(Exception):
                    failed.close()
            self._notify(f"warning: {name} takes no more data: {type(error).__name__}: {error}")
