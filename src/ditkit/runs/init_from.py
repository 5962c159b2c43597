"""`train --init-from`: the model that a new run begins with, which brings its architecture and what it predicts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..cli import console
from ..config import RunConfig, to_dict
from ..errors import CheckpointError, UsageError
from ..io.paths import as_stored
from .folder import RunFolder
from .lookup import find_weights
from .model_info import read_model_info
from .target import Target

_SECTIONS = ("model", "diffusion", "autoencoder", "sample")  # which come with it


@dataclass(frozen=True, kw_only=True)
class InitFrom:
    """A model to begin with."""

    word: str  # as typed
    path: str  # its weights file
    config: RunConfig
    labels: tuple[str, ...] | None = None  # None: the run has begun long ago
    step: int = 0

    def applied_to(self, found: Target | None, name: str) -> Target:
        """A target with the model's settings instead of its own; files, flags and --set still win over them."""
        theirs, tree = to_dict(self.config), dict(found.tree) if found else {}
        tree |= {section: theirs[section] for section in _SECTIONS}
        tree["data"] = {**tree.get("data", {}), **{key: theirs["data"][key] for key in ("image_size", "channels")}}
        tree["train"] = {**tree.get("train", {}), "init_from": self.path}
        return replace(found, tree=tree) if found else Target(tree=tree, name=name)

    def check(self, config: RunConfig) -> None:
        """Raise UsageError if the settings ask for another architecture than the weights have."""
        theirs, ours = asdict(self.config.model), asdict(config.model)
        pairs = {f"model.{key}": (value, ours[key]) for key, value in theirs.items()}
        pairs["channels"] = (self.config.shape[0], config.shape[0])
        for key, (their, our) in pairs.items():
            if their != our:
                raise UsageError(
                    f"--init-from: {self.word} has {key} {their}, these settings {our}",
                    "leave the architecture out: it comes with the weights",
                )

    def announce(self, labels: Sequence[str], *, quiet: bool) -> None:
        """Say what is taken over, and which labels are new to it."""
        if self.labels is None:
            return
        new = [label for label in labels if label not in self.labels]
        listed = ", ".join(new[:6]) + (" …" if len(new) > 6 else "")
        afresh = f"; labels that it does not know begin afresh: {listed}" if new else ""
        console.say(f"beginning with the weights of {self.word}, step {self.step}{afresh}", quiet=quiet)


def find_init_from(word: str, runs: Path, existing: RunFolder | None) -> InitFrom:
    """The model that a word means; for a run that has begun with it, what that began with, wherever it is now.

    Raises UsageError or CheckpointError when there is none.
    """
    before = existing.read_config() if existing and existing.is_run() else None
    known = before.train.init_from if before else None
    weights = None
    with contextlib.suppress(*((UsageError, CheckpointError) if known else ())):
        weights = as_stored(find_weights(word, runs).resolve())
    if before and known and (weights is None or _same(Path(known), Path(weights))):
        return InitFrom(word=word, path=known, config=before)
    assert weights is not None
    info = read_model_info(Path(weights))
    return InitFrom(word=word, path=weights, config=info.config, labels=info.labels, step=info.step)


def _same(one: Path, other: Path) -> bool:
    """Whether two weights files are one, or of one run that has trained on in the meantime."""
    if one == other:
        return True
    inside = one.parent.parent.name == other.parent.parent.name == "checkpoints"
    return inside and one.parent.parent == other.parent.parent
