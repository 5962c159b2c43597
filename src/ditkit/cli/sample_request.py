"""Options and the model's own description make a checked SampleRequest."""

from __future__ import annotations

from pathlib import Path

from .. import recipes
from ..autoencoders.files import moved
from ..config import to_dict
from ..errors import UsageError
from ..io.progress import notify
from ..runs import target
from ..runs.lookup import find_guide, find_weights, hub_address, model_name, origin_of
from ..runs.model_info import ModelInfo, read_model_info
from ..runs.remarks import usable_guidance
from ..sampling.request import SampleRequest
from . import console, parsing
from .opt import changes
from .options import Device, Model, SampleSettings

DEFAULT_IMAGES = 16  # without --labels, of a model that has none, or more than:
MAX_LABELS = 100


def resolve_request(
    settings: SampleSettings, model: Model, device: Device, runs: Path, *, default: str | None = None
) -> SampleRequest:
    """What the options of a command and the weights' own description ask for.

    Args:
        runs: the folder of runs.
        default: the model to take if none is named; the newest run if None.

    Raises:
        UsageError: for every mistake in the options.
        CheckpointError: for weights that are missing or damaged.
    """
    word, ema = model.model or default, not model.no_ema
    word = hub_address(word, runs) or word
    weights = find_weights(word, runs, ema=ema, on_damage=warn_of_damage)
    if model.ema is not None:
        weights = averaged(weights, model.ema, ema=ema)
    info = read_model_info(weights)
    changed = changes(settings, device)
    trees = [target.nested(key, value) for key, value in changed.items()]
    config = recipes.build(to_dict(info.config), {"train": {"accumulate": 1}}, *trees)
    target.check_sampler(config)
    if model.autoencoder is not None:
        moved(config.autoencoder, model.autoencoder)  # raises
    guide = None
    if settings.autoguide:
        guide = find_guide(settings.autoguide, weights, info, runs, scale=config.sample.guidance, ema=ema)
    drawn, remark = usable_guidance(config, len(info.labels), guide=guide is not None)
    if remark:
        notify(remark)
    return SampleRequest(
        weights=weights,
        info=info,
        name=f"{model_name(weights, word)}-{info.step}",
        origin=origin_of(word, weights),
        labels=parsing.expand_labels(settings.labels or _default_labels(info), info.labels),
        seed=config.seed,
        batch_size=config.train.batch_size if "train.batch_size" in changed else None,
        settings=drawn,
        ema=float(model.ema) if model.ema is not None else None,
        guide=guide,
        autoencoder=model.autoencoder,
    )


def _default_labels(info: ModelInfo) -> list[str]:
    """One image of each label, as long as those are not too many."""
    if not info.labels:
        return [f"{parsing.ANY}*{DEFAULT_IMAGES}"]
    return list(info.labels if len(info.labels) <= MAX_LABELS else info.labels[:DEFAULT_IMAGES])


def averaged(weights: Path, text: str, *, ema: bool) -> Path:
    """The weights of a run's average of another length. Raises UsageError for a word that is no length."""
    length = parsing.ema_length(text)
    if not ema:
        raise UsageError("--ema and --no-ema ask for different weights", "leave one of them out")
    with console.loading_torch():
        from ..checkpoint.posthoc_ema import average
    return average(weights, length)


def warn_of_damage(path: Path) -> None:
    """Say that a checkpoint is passed over."""
    console.say(f"warning: {path} is damaged; looking for the checkpoint before it")
