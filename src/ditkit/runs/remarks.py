"""Settings that cannot work together: refused before a run begins, or said in a line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..config import DiffusionConfig, RunConfig, SampleConfig
from ..errors import UsageError
from .model_info import ModelInfo

_MOST_KEPT = 0.01  # of an image's variance at the last timestep: linear betas of 1000 steps keep 0.00004
_STRONG = 10.0  # guidance from which colours saturate
NOT_LEARNT = "guidance is off: the model has not learnt what no label is (diffusion.label_drop is 0)"


def variance_left(diffusion: DiffusionConfig) -> float:
    """The part of an image's variance left at the last timestep, abar_T (Ho et al. 2020, eq. 4); 0 of a flow."""
    if diffusion.process == "flow":
        return 0.0
    (start, end), last = diffusion.betas, diffusion.timesteps - 1
    return math.prod(1 - start - (end - start) * step / max(last, 1) for step in range(diffusion.timesteps))


def check_new_run(config: RunConfig) -> None:
    """Raise UsageError for settings with which a run could only fail. Runs that have begun keep theirs."""
    diffusion, kept = config.diffusion, variance_left(config.diffusion)
    if kept > _MOST_KEPT:
        raise UsageError(
            f"the last of {diffusion.timesteps} timesteps keeps {100 * kept:.0f} % of an image's variance, and "
            "sampling begins at pure noise",
            "leave out diffusion.beta_start and diffusion.beta_end: they are then scaled to the number of timesteps",
        )
    if not config.sample.apg and (config.sample.apg_norm is not None or config.sample.apg_momentum):
        raise UsageError("sample.apg_norm and sample.apg_momentum are for APG", "add --set sample.apg=true")
    if diffusion.label_drop == 1:
        raise UsageError(
            "diffusion.label_drop is 1: no label would be learnt",
            "take 0.1, or train without labels (--label-from none)",
        )


def remarks(config: RunConfig, labels: int) -> Iterator[str]:
    """What a new run's settings do that is hardly wanted; `labels` is how many there are."""
    optim, train, patch = config.optim, config.train, config.model.patch * config.autoencoder.shrink
    if optim.warmup_steps >= train.steps:
        rate = f"{optim.lr * train.steps / optim.warmup_steps:.1e}"
        yield (
            f"the learning rate reaches {rate}, not {optim.lr:.1e}: the warm-up of {optim.warmup_steps:,} steps is not "
            f"shorter than the run (optim.warmup_steps)"
        )
    if labels > 1 and config.diffusion.label_drop == 0 and config.sample.guidance != 1:
        yield "guidance is off in samples: no label is ever left out in training (diffusion.label_drop is 0)"
    if config.diffusion.process == "flow" and (config.diffusion.beta_start or config.diffusion.beta_end):
        yield "diffusion.beta_start and beta_end do nothing: a flow has no betas (diffusion.process)"
    if config.sample.reuse > config.sample.steps:
        yield f"every image is drawn by one pass through the blocks: sample.reuse {config.sample.reuse} is too much"
    if config.data.balance and labels < 2:
        yield "data.balance does nothing: there are no labels to balance"
    if config.data.image_size == (patch, patch):
        yield "one patch covers the whole image, so there is nothing to attend to (model.patch)"
    if train.snapshot_every and train.snapshot_every > train.steps:
        yield f"no snapshot is taken: train.snapshot_every {train.snapshot_every:,} is more than the run's steps"


def usable_guidance(
    config: RunConfig, labels: int, settings: SampleConfig | None = None, *, guide: bool
) -> tuple[SampleConfig, str]:
    """How a model is sampled, without guidance where it has none, and what is to be said about it.

    `labels` is how many it has, and `settings` are its own if None; with a `guide`, another model stands for no label.
    """
    settings = settings or config.sample
    if guide or labels == 0 or settings.guidance == 1:
        return settings, ""
    if config.diffusion.label_drop == 0:
        return replace(settings, guidance=1.0), NOT_LEARNT
    if settings.guidance >= _STRONG and not (settings.apg or settings.guidance_rescale or settings.clamp):
        return settings, (
            f"guidance {settings.guidance:g} saturates colours: less of it, --guidance-rescale 0.7 or --apg may help"
        )
    return settings, ""


def check_varied_guidance(model: ModelInfo, scales: Sequence[str]) -> None:
    """Raise UsageError for several scales of guidance with a model that has none."""
    if len(scales) > 1 and model.labels and model.config.diffusion.label_drop == 0:
        raise UsageError(f"--guidance: {NOT_LEARNT}", "leave it out")
