"""ModelInfo: config, labels and step inside every weights file, readable without torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import index
from pathlib import Path
from typing import Any, cast

from ..config import RunConfig, to_dict
from ..errors import CheckpointError, DitkitError, UsageError, unknown
from ..io.safetensors import read_header
from ..io.text import composed, shell_words
from .stored import stored_config

METADATA_KEY = "ditkit"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class LatentStats:
    """Mean and standard deviation of the latents of the training images, and whose latents they are."""

    mean: tuple[float, ...]  # of each channel
    std: tuple[float, ...]
    autoencoder: str  # fingerprint of its weights; empty where it is unknown

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> LatentStats:
        """Read from JSON. Raises ValueError, TypeError or KeyError for anything else."""
        mean, std = (tuple(float(value) for value in tree[key]) for key in ("mean", "std"))
        if (
            len(mean) != len(std)
            or not all(math.isfinite(value) for value in mean)
            or not all(0 < v < 1e9 for v in std)
        ):
            raise ValueError("latent statistics that are none")
        return cls(mean=mean, std=std, autoencoder=str(tree["autoencoder"]))


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A weights file's own description."""

    config: RunConfig
    labels: tuple[str, ...]
    step: int
    weights: str = "ema"  # "ema" or "model"
    latents: LatentStats | None = None  # None: the network models pixels

    def to_json(self) -> str:
        """One JSON object; goes into the metadata of a safetensors file."""
        return json.dumps(
            {
                "format": FORMAT,
                "config": to_dict(self.config),
                "labels": list(self.labels),
                "step": self.step,
                "weights": self.weights,
                **({"latents": asdict(self.latents)} if self.latents else {}),
            },
            sort_keys=True,
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str, source: Path) -> ModelInfo:
        """Read from JSON. Raises CheckpointError naming `source` for anything else, and for a newer format."""
        try:
            tree = json.loads(text)
            if int(tree["format"]) > FORMAT:
                raise CheckpointError(
                    f"{source}: format {tree['format']} is newer than this ditkit understands ({FORMAT})",
                    "upgrade with `pip install -U ditkit`",
                )
            config, latents = stored_config(tree["config"], f"{source}: a newer ditkit"), tree.get("latents")
            if (latents is None) != (config.autoencoder.name == "pixel"):
                raise ValueError("an autoencoder and latent statistics go together")
            return cls(
                config=config,
                latents=LatentStats.from_tree(latents) if latents is not None else None,
                labels=tuple(composed(str(label)) for label in tree["labels"]),
                step=_step(tree["step"]),
                weights=str(tree["weights"]),
            )
        except CheckpointError:
            raise
        except (DitkitError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            why = (error.message if isinstance(error, DitkitError) else str(error))[:300]
            raise CheckpointError(f"{source}: its ditkit card is damaged ({why})", "use another checkpoint") from None


def _step(value: Any) -> int:
    """A step that a checkpoint can be named after. Raises ValueError."""
    if not 0 <= (step := int(value)) < 10**12:
        raise ValueError(f"step {str(value)[:30]} is out of range")
    return step


def read_model_info(path: Path) -> ModelInfo:
    """The ModelInfo of a .safetensors file, from its header alone. Raises CheckpointError if it has none."""
    text = read_metadata(path).get(METADATA_KEY)
    if not isinstance(text, str):
        raise CheckpointError(
            f"{path} is not a weights file of ditkit, or it is damaged",
            f"use another checkpoint; other projects' weights come in by `ditkit import {shell_words(str(path))}`",
        )
    return ModelInfo.from_json(text, path)


def has_model_info(path: Path) -> bool:
    """Whether a .safetensors file is ditkit's own. Raises CheckpointError for one that cannot be read or is damaged."""
    return METADATA_KEY in read_metadata(path)


def read_metadata(path: Path) -> Mapping[str, Any]:
    """The metadata of a .safetensors file, from its header alone. Raises CheckpointError."""
    try:
        metadata = read_header(path)[0].get("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError
        return metadata
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}", "check the path") from None
    except ValueError:
        raise CheckpointError(
            f"{path} is not a weights file of ditkit, or it is damaged", "use another checkpoint"
        ) from None


def check_guide(model: ModelInfo, guide: ModelInfo) -> None:
    """Raise UsageError for a guide that does not predict the same of the same images as the model that it guides."""
    wanted, has = _prediction(model), _prediction(guide)
    other = [name for name, value in wanted.items() if value != has[name]]
    if other:
        raise UsageError(
            f"the guide has other {' and '.join(other)} than the model",
            "guide with an early checkpoint of the same run, or with a smaller model trained on the same images",
        )


def _prediction(info: ModelInfo) -> dict[str, Any]:
    """What a model predicts, and of what."""
    diffusion = info.config.diffusion
    return {
        "images": info.config.shape,
        "labels": info.labels,
        "process": diffusion.process,
        "objective": diffusion.objective,
        "timesteps": diffusion.timesteps,
        "betas": diffusion.betas if diffusion.process == "diffusion" else None,
        "latents": info.latents,
    }


def resolve_labels(known: Sequence[str], labels: Sequence[str | int] | int) -> list[str | None]:
    """The label of each image to draw; None for each image of a model without labels.

    Args:
        known: the labels of the model.
        labels: one for each image ("any" where the model has none), or how many images, going round the labels. A
            number counts as the label of that name, or, where no label is itself a number, of that class: 207 is
            ImageNet's golden retriever.

    Raises UsageError for a label that the model does not know.
    """
    if not (hasattr(labels, "__len__") and len(cast("Sequence[str | int]", labels))):
        count = 0 if hasattr(labels, "__len__") else index(cast("int", labels))
        if count < 1:
            raise UsageError(f"cannot draw {count} images", "ask for one or more")
        return [known[number % len(known)] if known else None for number in range(count)]
    given: Sequence[str | int] = [labels] if isinstance(labels, str) else cast("Sequence[str | int]", labels)
    words = [composed(word) if isinstance(word, str) else _number(word) for word in given]
    spelled = {composed(label): label for label in known}  # accents in one way, whatever the system
    if not any(re.fullmatch(r"-?[\d.]+", label) for label in known):
        words = [_of_number(word, list(spelled)) for word in words]
    for word in words:
        if not known and word != "any":
            raise UsageError(f"this model has no labels, so there is no {word!r}", "say how many images to draw")
        if known and word not in spelled:
            raise unknown("label", word, known)
    return [spelled[word] if known else None for word in words]


def _number(label: int) -> str:
    """A class number, of Python, NumPy or torch, as a word."""
    try:
        return str(index(label))
    except TypeError:
        raise UsageError(f"{label!r} is neither a label nor the number of a class", "e.g. 3, or '3'") from None


def _of_number(word: str, known: Sequence[str]) -> str:
    """The label of the class that a word numbers, from 0; other words as they are."""
    if not known or not word.isascii() or not word.isdecimal():
        return word
    if len(word) > 9 or int(word) >= len(known):
        raise UsageError(f"there is no class {word}", f"this model's classes have the numbers 0 to {len(known) - 1}")
    return composed(known[int(word)])
