"""ForeignModel, which every reader returns; names of classes; tensors as another type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError
from ..runs.model_info import ModelInfo


@lru_cache(maxsize=1)
def imagenet() -> tuple[str, ...]:
    """ImageNet's 1000 classes in their usual order: a short English name each, all different.

    WordNet's first word for each, except four: two would occur twice, one is in lower case, one is rarely used.
    """
    return tuple(Path(__file__).with_name("imagenet.txt").read_text(encoding="utf-8").splitlines())


def short_names(labels: Sequence[str]) -> tuple[str, ...]:
    """ImageNet's names where labels are its lists of synonyms ("tench, Tinca tinca"), else the labels themselves."""
    pairs = zip(imagenet(), labels, strict=False)
    matches = sum(name.split()[0].lower() in label.lower() for name, label in pairs) if len(labels) == 1000 else 0
    return imagenet() if matches > 900 else tuple(labels)


def class_names(count: int) -> tuple[str, ...]:
    """ImageNet's names for its number of classes, else 0, 1, 2 …"""
    return imagenet() if count == len(imagenet()) else tuple(str(number) for number in range(count))


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """Another project's model, ready to be saved as one of ditkit's."""

    origin: str  # the format, in words: "diffusers DiTPipeline"
    info: ModelInfo
    ema: dict[str, Tensor]  # every parameter of ditkit's DiT by its name, float32; the averaged weights
    raw: dict[str, Tensor] | None = None  # the weights that were averaged, where the file has them too
    losses: tuple[tuple[int, float], ...] = ()  # (step, training loss)
    names_are_assumed: bool = False  # of the classes: the file holds none
    notes: tuple[str, ...] = ()  # what was taken, left out or assumed: a line each, for the user


def note_on_label_drop(info: ModelInfo) -> tuple[str, ...]:
    """A line on a model whose training never left out a label, so that guidance has nothing to lead away from."""
    if not info.labels or info.config.diffusion.label_drop:
        return ()
    return ("its labels were never dropped in training, so that guidance means nothing: it is off (guidance 1)",)


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors as another type. Raises UsageError where a number is too large for it."""
    converted = {name: value.to(dtype) for name, value in tensors.items()}
    for name, value in converted.items():
        if not bool(value.isfinite().all()):
            type_name = str(dtype).removeprefix("torch.")
            raise UsageError(f"{name} has numbers that {type_name} cannot hold", "use --dtype bfloat16 or float32")
    return converted
