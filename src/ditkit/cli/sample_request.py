"""Flags + ModelInfo -> a checked SampleRequest; drawing it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import recipes
from ..config import SampleConfig, to_dict
from ..errors import UsageError, unknown
from ..io import text as io_text
from ..runs import target
from ..runs.folder import runs_dir as runs_place
from ..runs.lookup import _origin, find_guide, find_weights, model_name
from ..runs.model_info import ModelInfo, read_model_info
from ..runtime.distributed import ProcessGroup
from . import console, datasets, parsing

if TYPE_CHECKING:
    from ..sampling.generate import Sample


UNASKED = 16  # images when nothing is asked for: of a model without labels, or with more kinds than
MOST_KINDS = 100
AUTO = "auto"  # a batch size
BACKENDS = ("torch", "jax")
_SETTINGS = {  # flag -> setting
    "--steps": "sample.steps",
    "--guidance": "sample.guidance",
    "--sampler": "sample.sampler",
    "--reuse": "sample.reuse",
    "--seed": "seed",
    "--batch-size": "train.batch_size",
}


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What is to be drawn, all checked, before torch is there."""

    weights: Path
    info: ModelInfo
    name: str  # of the folder of images
    origin: str  # of the weights, as the images name it
    labels: list[str]  # "any" for each image of an unconditional model
    seed: int
    batch_size: int | None  # None: what fits
    settings: SampleConfig
    ema: float | None = None  # length of the average, where one was asked for
    guide: Path | None = None  # weights that stand for the null label
    autoencoder: Path | None = None  # where that of the run lies now
    backend: str = "torch"  # or "jax"

    @property
    def file_names(self) -> list[str]:
        """`000-cat.png` …, in safe characters; `000.png` from a model without labels."""
        digits = max(3, len(str(len(self.labels) - 1)))
        spoken = [f"-{io_text.slug(label, 'label')}" if self.info.labels else "" for label in self.labels]
        return [f"{index:0{digits}d}{label}.png" for index, label in enumerate(spoken)]

    @property
    def png_metadata(self) -> dict[str, str]:
        """What every PNG says about its making."""
        how = self.settings
        return {
            "checkpoint": self.origin,
            "step": str(self.info.step),
            "sampler": how.sampler,
            "steps": str(how.steps),
            "guidance": f"{how.guidance:g}",
            "guidance_interval": f"{how.guidance_from:g} {how.guidance_to:g}",
            "reuse": str(how.reuse),
            **({"ema": f"{self.ema:g}"} if self.ema is not None else {}),
            **({"autoguide": str(self.guide)} if self.guide else {}),
            "software": "ditkit",
        }


def resolve_request(
    labels: list[str] | None, flags: dict[str, Any], *, model: str | None, runs_dir: Path | None, ema: bool
) -> SampleRequest:
    """Words and the weights' own card as an Order. Raises UsageError for every mistake in them."""
    flags = {flag: None if (flag, value) == ("--batch-size", AUTO) else value for flag, value in flags.items()}
    weights = find_weights(model, runs_place(runs_dir), ema=ema, on_damage=tell_of_damage)
    length = flags.get("--ema")
    if length is not None:
        weights = _averaged(weights, length, ema=ema)
    info = read_model_info(weights)
    asked = [
        target.nested(_SETTINGS[flag], value)
        for flag, value in flags.items()
        if value is not None and flag in _SETTINGS
    ]
    interval = flags.get("--guidance-interval")
    if interval is not None:
        asked.append({"sample": {"guidance_from": interval[0], "guidance_to": interval[1]}})
    try:
        config = recipes.build(to_dict(info.config), {"train": {"accumulate": 1}}, *asked)
    except UsageError as error:
        raise target.in_flags(error, flags, _SETTINGS) from None
    target.check_sampler(config)
    some = info.labels if len(info.labels) <= MOST_KINDS else info.labels[:UNASKED]
    guide, scale = flags.get("--autoguide"), config.sample.guidance
    images = parsing.expand_labels(labels or some or [f"{parsing.ANY}*{UNASKED}"], info.labels)
    return SampleRequest(
        weights=weights,
        info=info,
        name=f"{model_name(weights, model)}-{info.step}",
        origin=_origin(model, weights),
        labels=images,
        seed=config.seed,
        batch_size=config.train.batch_size if flags.get("--batch-size") else None,
        settings=config.sample,
        ema=float(length) if length is not None else None,
        guide=find_guide(guide, weights, info, runs_place(runs_dir), scale=scale, ema=ema) if guide else None,
    )


def _averaged(weights: Path, text: str, *, ema: bool) -> Path:
    length = parsing.ema_length(text)
    if not ema:
        raise UsageError("--ema and --no-ema ask for different weights", "leave one of them out")
    with console.loading_torch():
        from ..checkpoint.posthoc_ema import average
    return average(weights, length)


def tell_of_damage(path: Path) -> None:
    """Say that a checkpoint is passed over."""
    console.say(f"warning: {path} is damaged; looking for the checkpoint before it")


def on_backend(order: SampleRequest, word: str) -> SampleRequest:
    """The same order for `torch` or `jax`. Raises UsageError for another word, and for what JAX does not draw."""
    if word not in BACKENDS:
        raise unknown("backend", word, BACKENDS)
    if word == "jax":
        from ..jax.limits import check_installed, check_sampling

        if order.guide is not None:
            raise UsageError("the JAX backend knows no autoguidance", "use --backend torch")
        check_sampling(replace(order.info.config, sample=order.settings))
        check_installed()
    return replace(order, backend=word)


def draw(
    order: SampleRequest,
    device: str,
    *,
    quiet: bool,
    on_noisy: Callable[[int, int, Any], None] | None = None,
    group: ProcessGroup = ProcessGroup(),
) -> Iterator[Sample]:
    """The images of an order, a batch at a time, so that memory stays bounded and a stop loses little.

    Processes that were launched together draw a batch each and exchange them: all get all images, in their order.
    """
    if order.backend == "jax":
        yield from _draw_in_jax(order, device, quiet=quiet, group=group)
        return
    with console.loading_torch(quiet=quiet):
        from ..checkpoint.loading import load
        from ..runtime.device import find_device
        from ..sampling.generate import default_batch_size, sample_batches

        place = find_device(device)
        with datasets.watching(quiet=quiet):
            trained = group.run_together(lambda: load(order.weights, device=place, autoencoder=order.autoencoder))
            guide = load(order.guide, device=place, autoencoder=order.autoencoder) if order.guide else None
    batch_size = order.batch_size or group.broadcast(
        min(
            default_batch_size(trained.network, trained.info.config.shape, place),
            math.ceil(len(order.labels) / group.size),
        )
    )
    rounds = math.ceil(math.ceil(len(order.labels) / batch_size) / group.size)
    with console.bar("drawing", quiet=quiet) as show:

        def on_step(step: int, steps: int, _clean_BCHW: Any, noisy_BCHW: Any) -> None:
            show((step + 1) / steps * len(order.labels), len(order.labels))
            if on_noisy:
                on_noisy(step, steps, trained.codec.to_images(noisy_BCHW))

        batches = sample_batches(
            trained,
            order.labels,
            settings=order.settings,
            seed=order.seed,
            guide=guide,
            batch_size=batch_size,
            on_step=on_step,
            part=(group.rank, group.size),
        )
        for _ in range(rounds):
            for batch in group.all_gather(next(batches, [])):
                yield from batch


def _draw_in_jax(order: SampleRequest, device: str, *, quiet: bool, group: ProcessGroup) -> Iterator[Sample]:
    if group.size > 1:
        raise UsageError("the JAX backend draws in one process", "start it without a launcher, or use --backend torch")
    with console.loading_torch(quiet=quiet):
        from ..jax.files import load
        from ..jax.sampling import sample_batches

        trained = load(order.weights, device=device)
    batches = sample_batches(
        trained, order.labels, settings=order.settings, seed=order.seed, batch_size=order.batch_size
    )
    with console.bar("drawing", quiet=quiet) as show:
        for number, one in enumerate(chain.from_iterable(batches), 1):
            show(number, len(order.labels))
            yield one
