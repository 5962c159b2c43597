"""Options and the model's own description make a checked SampleRequest."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..runs.model_info import ModelInfo
from ..sampling.request import SampleRequest, checked_request
from . import console, parsing
from .opt import changes
from .options import Device, Model, SampleSettings

DEFAULT_IMAGES = 16  # without --labels, of a model that has none, or more than:
MAX_LABELS = 100


def resolve_request(
    settings: SampleSettings, model: Model, device: Device, runs: Path, *, default: str | None = None
) -> SampleRequest:
    """What the options of a command ask for, of `default` or the newest run if they name no model.

    Raises as `checked_request` does.
    """

    def labels(info: ModelInfo) -> list[str]:
        return parsing.expand_labels(settings.labels or _default_labels(info), info.labels)

    return checked_request(
        model.model or default,
        runs,
        labels=labels,
        changes=changes(settings, device),
        ema=not model.no_ema,
        ema_length=None if model.ema is None else ema_length(model.ema, model),
        guide=settings.autoguide,
        autoencoder=model.autoencoder,
        on_damage=warn_of_damage,
        progress=console.watch(),
    )


def ema_length(word: str, model: Model) -> float:
    """The length of an average of --ema. Raises UsageError for a word that is none, and beside --no-ema."""
    if model.no_ema:
        raise UsageError("--ema and --no-ema ask for different weights", "leave one of them out")
    return parsing.ema_length(word)


def _default_labels(info: ModelInfo) -> list[str]:
    """One image of each label, as long as those are not too many."""
    if not info.labels:
        return [f"{parsing.ANY}*{DEFAULT_IMAGES}"]
    return list(info.labels if len(info.labels) <= MAX_LABELS else info.labels[:DEFAULT_IMAGES])


def warn_of_damage(path: Path) -> None:
    """Say that a checkpoint is passed over."""
    console.say(f"warning: {path} is damaged; looking for the checkpoint before it")
