"""Options and the model's own description make a checked SampleRequest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import UsageError
from ..sampling.request import SampleRequest, checked_request
from . import console, parsing
from .opt import changes
from .options import Model, NetworkDevice, SampleSettings


def resolve_request(
    settings: SampleSettings, model: Model, device: NetworkDevice, runs: Path, *, default: str | None = None
) -> SampleRequest:
    """What the options of a command ask for, of `default` or the newest run if they name no model.

    Raises as `checked_request` does.
    """
    request = checked_request(
        model.model or default,
        runs,
        labels=settings.labels,
        changes=changes(settings, device),
        ema=not model.no_ema,
        ema_length=None if model.ema is None else ema_length(model.ema, model),
        guide=settings.autoguide,
        autoencoder=model.autoencoder,
        on_damage=warn_of_damage,
        progress=console.watch(),
    )
    return replace(request, dtype=device.dtype, kernels=device.kernels)


def ema_length(word: str, model: Model) -> float:
    """The length of an average of --ema. Raises UsageError for a word that is none, and beside --no-ema."""
    if model.no_ema:
        raise UsageError("--ema and --no-ema ask for different weights", "leave one of them out")
    return parsing.ema_length(word)


def warn_of_damage(path: Path) -> None:
    """Say that a checkpoint is passed over."""
    console.say(f"warning: {path} is damaged; looking for the checkpoint before it")
