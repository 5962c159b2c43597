"""`train --init-from`: the model that a new run begins with, which brings its architecture and what it predicts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..config import RunConfig, to_dict
from ..errors import CheckpointError, UsageError
from ..io.paths import as_stored, resolved
from .folder import RunFolder
from .lookup import find_weights
from .model_info import read_model_info

_SECTIONS = ("model", "diffusion", "autoencoder", "sample")  # settings that come with the weights


@dataclass(frozen=True, kw_only=True)
class InitFrom:
    """A model to begin with."""

    word: str  # as typed
    path: str  # its weights file
    config: RunConfig
    labels: tuple[str, ...] | None = None  # None: the run has begun with it already
    step: int = 0

    def applied_to(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with the model's instead of their own; files, flags and --set still win over them."""
        model = to_dict(self.config)
        shape = {key: model["data"][key] for key in ("image_size", "channels")}
        return {
            **tree,
            **{section: model[section] for section in _SECTIONS},
            "data": {**tree.get("data", {}), **shape},
            "train": {**tree.get("train", {}), "init_from": self.path},
        }

    def check(self, config: RunConfig) -> None:
        """Raise UsageError if the settings ask for another architecture than the weights have."""
        wanted = asdict(config.model)
        pairs = {f"model.{key}": (value, wanted[key]) for key, value in asdict(self.config.model).items()}
        pairs["channels"] = (self.config.shape[0], config.shape[0])
        for key, (value, other) in pairs.items():
            if value != other:
                raise UsageError(
                    f"--init-from: {self.word} has {key} {value}, these settings {other}",
                    "leave the architecture out: it comes with the weights",
                )

    def describe(self, labels: Sequence[str]) -> str | None:
        """A line about what is taken over, and which of the data set's labels are new; None where that is done."""
        if self.labels is None:
            return None
        new = [label for label in labels if label not in self.labels]
        listed = ", ".join(new[:6]) + (" …" if len(new) > 6 else "")
        fresh = f"; labels that it does not know start from random weights: {listed}" if new else ""
        return f"beginning with the weights of {self.word}, step {self.step}{fresh}"


def find_init_from(word: str, runs: Path, existing: RunFolder | None) -> InitFrom:
    """The model that a word means; for a run that has begun with it, what that began with, wherever it is now.

    Raises UsageError or CheckpointError when there is none.
    """
    written = existing.read_config() if existing else None
    begun_with = written.train.init_from if written else None
    weights = None
    with contextlib.suppress(*((UsageError, CheckpointError) if begun_with else ())):
        weights = as_stored(resolved(find_weights(word, runs)))
    if written and begun_with and (weights is None or _same_model(Path(begun_with), Path(weights))):
        return InitFrom(word=word, path=begun_with, config=written)
    assert weights is not None
    info = read_model_info(Path(weights))
    return InitFrom(word=word, path=weights, config=info.config, labels=info.labels, step=info.step)


def _same_model(path: Path, other: Path) -> bool:
    """Whether two weights files are one, or of one run that has trained on in the meantime."""
    for first, second in ((path, other), (path.resolve(), other.resolve())):  # a run may know the target of a link
        in_run = first.parent.parent.name == "checkpoints"
        if first == second or (in_run and first.parent.parent == second.parent.parent):
            return True
    return False
