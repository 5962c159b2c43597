"""`train --init-from`: the model that a new run begins with, which brings its architecture and what it predicts."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..config import RunConfig, to_dict
from ..errors import CheckpointError, UsageError
from ..io import atomic
from ..io.locks import done_reading
from ..io.paths import as_stored, expanded, resolved
from .folder import RunFolder, run_of
from .lookup import find_weights
from .model_info import ModelInfo, read_model_info

_SECTIONS = ("model", "diffusion", "autoencoder", "sample")  # settings that come with the weights


@dataclass(frozen=True, kw_only=True)
class InitFrom:
    """A model to begin with."""

    word: str  # as typed
    path: str  # its weights file
    config: RunConfig
    info: ModelInfo | None = None  # None: the run has begun with it already
    imported: bool = False  # from another project: it is trained on at its own rates instead of a recipe's

    def applied_to(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with the model's instead of their own; files, flags and --set still win over them."""
        model = to_dict(self.config)
        shape = {key: model["data"][key] for key in ("image_size", "channels")}
        return {
            **tree,
            **{section: model[section] for section in _SECTIONS},
            "data": {**tree.get("data", {}), **shape},
            "optim": {**tree.get("optim", {}), **self._rates(tree.get("optim", {}))},
            "train": {**tree.get("train", {}), "init_from": self.path},
        }

    def _rates(self, recipe: Mapping[str, Any]) -> dict[str, float]:
        """The learning rate and EMA decay: at most and at least an imported model's; those of a run that has begun."""
        own = self.config.optim
        if self.info is None:
            return {"lr": own.lr, "ema_decay": own.ema_decay}
        if not self.imported:
            return {}
        lr, decay = recipe.get("lr", own.lr), recipe.get("ema_decay", own.ema_decay)
        return {"lr": min(lr, own.lr), "ema_decay": max(decay, own.ema_decay)}

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

    def describe(self, labels: Sequence[str], config: RunConfig, *, measures_lr: bool = False) -> str | None:
        """A line about what is taken over, and which of the data set's labels are new; None where that is done.

        `config` is the new run's, whose learning rate may still have to be measured.
        """
        if self.info is None:
            return None
        known, own = self.info.labels, self.config
        new = [label for label in labels if label not in known]
        listed = ", ".join(new[:6]) + (" …" if len(new) > 6 else "")
        parts = [f"beginning with the weights of {self.word}, step {self.info.step}"]
        rates = (config.optim.lr, config.optim.ema_decay) == (own.optim.lr, own.optim.ema_decay)
        if self.imported and rates and not measures_lr:
            lr, decay = f"{own.optim.lr:g}", f"{own.optim.ema_decay:g}"
            parts.append(f"learning rate {lr} and EMA decay {decay} as for its own training (--lr changes it)")
        moved = (config.autoencoder.name, config.autoencoder.source) != (own.autoencoder.name, own.autoencoder.source)
        if moved and self.info.latents and not self.info.latents.autoencoder:
            parts.append(f"{config.autoencoder.source} is taken for its autoencoder")
        if new:
            numbered = len(new) == len(labels) and all(label.isdecimal() for label in known)
            hint = " (its classes have numbers only: `ditkit import --class-names`)" if numbered and known else ""
            parts.append(f"labels that it does not know start from random weights: {listed}{hint}")
        return "; ".join(parts)


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
    info, run = read_model_info(Path(weights)), run_of(Path(weights))
    imported = run is not None and run.is_foreign()
    return InitFrom(word=word, path=weights, config=info.config, info=info, imported=imported)


def keep_first_weights(config: RunConfig, folder: RunFolder) -> None:
    """Keep in a new run's folder the weights that it begins with, until it has a checkpoint of its own.

    Where they come from may be gone by then: a run that trains on removes its old checkpoints. A second name for the
    same file where the file system allows that, else a copy. Raises OSError when the disk does not take it.
    """
    if config.train.init_from is None:
        return
    weights = expanded(config.train.init_from).resolve()
    folder.first_weights.unlink(missing_ok=True)
    if not weights.is_file():  # which training reports
        return
    try:
        os.link(weights, folder.first_weights)
    except OSError:
        with atomic.replaced(folder.first_weights) as copy, weights.open("rb") as file:
            shutil.copyfileobj(file, copy)
    done_reading(weights.parent)


def with_kept_weights(config: RunConfig, folder: RunFolder) -> RunConfig:
    """Settings that begin with the weights which the run's folder keeps, where it does."""
    if config.train.init_from is None or not folder.first_weights.is_file():
        return config
    return replace(config, train=replace(config.train, init_from=as_stored(folder.first_weights)))


def _same_model(path: Path, other: Path) -> bool:
    """Whether two weights files are one, or of one run that has trained on in the meantime."""
    for first, second in ((path, other), (path.resolve(), other.resolve())):  # a run may know the target of a link
        in_run = first.parent.parent.name == "checkpoints"
        if first == second or (in_run and first.parent.parent == second.parent.parent):
            return True
    return False
