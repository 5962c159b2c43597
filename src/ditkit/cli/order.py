"""What `sample` and `make-gif denoise` draw: words and a weights file's card as one checked order, then images."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import recipes
from ..card import Card, read_card
from ..config import to_dict
from ..errors import UsageError
from ..run_folder import find_weights
from ..run_folder import runs_dir as runs_place
from . import console, targets, words
from .together import ALONE, Together

if TYPE_CHECKING:
    from ..sampling import Sample

UNCONDITIONAL = 16  # images when nothing is asked for
AUTO = "auto"  # a batch size
_SETTINGS = {  # flag -> setting
    "--steps": "sample.steps",
    "--guidance": "sample.guidance",
    "--sampler": "sample.sampler",
    "--reuse": "sample.reuse",
    "--seed": "seed",
    "--batch-size": "train.batch_size",
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be drawn, all checked, before torch is there."""

    weights: Path
    card: Card
    name: str  # of the folder of images
    labels: list[str]  # "any" for each image of an unconditional model
    seed: int
    batch_size: int | None  # None: what fits
    sampler: str
    steps: int
    guidance: float
    interval: tuple[float, float]
    reuse: int
    autoencoder: Path | None = None  # where that of the run lies now

    @property
    def file_names(self) -> list[str]:
        """`000-cat.png` …, in safe characters; `000.png` from a model without labels."""
        digits = max(3, len(str(len(self.labels) - 1)))
        spoken = [f"-{words.slug(label, 'label')}" if self.card.labels else "" for label in self.labels]
        return [f"{index:0{digits}d}{label}.png" for index, label in enumerate(spoken)]

    @property
    def text(self) -> dict[str, str]:
        """What every PNG says about its making."""
        low, high = self.interval
        return {
            "checkpoint": str(self.weights),
            "step": str(self.card.step),
            "sampler": self.sampler,
            "steps": str(self.steps),
            "guidance": f"{self.guidance:g}",
            "guidance_interval": f"{low:g} {high:g}",
            "reuse": str(self.reuse),
            "software": "ditkit",
        }


def read_order(
    labels: list[str] | None, flags: dict[str, Any], *, model: str | None, runs_dir: Path | None, ema: bool
) -> Order:
    """Words and the weights' own card as an Order. Raises UsageError for every mistake in them."""
    flags = {flag: None if (flag, value) == ("--batch-size", AUTO) else value for flag, value in flags.items()}
    weights = find_weights(model, runs_place(runs_dir), ema=ema, on_damage=_tell_of_damage)
    card = read_card(weights)
    asked = [
        targets.nested(_SETTINGS[flag], value)
        for flag, value in flags.items()
        if value is not None and flag in _SETTINGS
    ]
    interval = flags.get("--guidance-interval")
    if interval is not None:
        asked.append({"sample": {"guidance_from": interval[0], "guidance_to": interval[1]}})
    try:
        config = recipes.build(to_dict(card.config), {"train": {"accumulate": 1}}, *asked)
    except UsageError as error:
        raise targets.in_flags(error, flags, _SETTINGS) from None
    targets.check_sampler(config)
    images = words.expand_labels(labels or card.labels or [f"{words.ANY}*{UNCONDITIONAL}"], card.labels)
    return Order(
        weights=weights,
        card=card,
        name=f"{_model_name(weights)}-{card.step}",
        labels=images,
        seed=config.seed,
        batch_size=config.train.batch_size if flags.get("--batch-size") else None,
        sampler=config.sample.sampler,
        steps=config.sample.steps,
        guidance=config.sample.guidance,
        interval=(config.sample.guidance_from, config.sample.guidance_to),
        reuse=config.sample.reuse,
    )


def _tell_of_damage(path: Path) -> None:
    console.say(f"warning: {path} is damaged; looking for the checkpoint before it")


def _model_name(weights: Path) -> str:
    """The run's name for runs/NAME/checkpoints/step-…/ema.safetensors, else the file's."""
    place = weights.resolve()
    inside_run = place.parent.parent.name == "checkpoints"
    return words.slug(place.parent.parent.parent.name if inside_run else place.stem)


def check_folder(folder: Path, names: list[str], *, force: bool) -> None:
    """Raise DitkitError when the images cannot go there, or would overwrite others without --force."""
    words.check_writable(folder)
    there = set(os.listdir(folder)) if folder.is_dir() and not force else set()  # noqa: PTH208
    taken = [name for name in names if name in there]
    if taken:
        raise UsageError(
            f"{folder / taken[0]} is there already" + (f", and {len(taken) - 1} more" if taken[1:] else ""),
            "overwrite with --force, or choose another folder with --out",
        )


def draw(
    order: Order,
    device: str,
    *,
    quiet: bool,
    on_noisy: Callable[[int, int, Any], None] | None = None,
    together: Together = ALONE,
) -> Iterator[Sample]:
    """The images of an order, a batch at a time, so that memory stays bounded and a stop loses little.

    Processes that were launched together draw a batch each and exchange them: all get all images, in their order.
    """
    with console.loading_torch(quiet=quiet):
        from ..checkpoint import load
        from ..device import find_device
        from ..sampling import default_batch_size, sample_batches

        place = find_device(device)
        with targets.watching(quiet=quiet):
            trained = together.do(lambda: load(order.weights, device=place, autoencoder=order.autoencoder))
    batch_size = order.batch_size or together.tell(
        min(
            default_batch_size(trained.network, trained.card.config.shape, place),
            math.ceil(len(order.labels) / together.size),
        )
    )
    rounds = math.ceil(math.ceil(len(order.labels) / batch_size) / together.size)
    with console.bar("drawing", quiet=quiet) as show:

        def on_step(step: int, steps: int, _clean_BCHW: Any, noisy_BCHW: Any) -> None:
            show((step + 1) / steps * len(order.labels), len(order.labels))
            if on_noisy:
                on_noisy(step, steps, trained.codec.to_images(noisy_BCHW))

        batches = sample_batches(
            trained,
            order.labels,
            seed=order.seed,
            sampler=order.sampler,
            steps=order.steps,
            guidance=order.guidance,
            guidance_interval=order.interval,
            reuse=order.reuse,
            batch_size=batch_size,
            on_step=on_step,
            part=(together.rank, together.size),
        )
        for _ in range(rounds):
            for batch in together.collect(next(batches, [])):
                yield from batch


def columns(labels: list[str]) -> int:
    """Rows of equal labels where that is what was asked for; one row for few; else about square."""
    kinds = list(dict.fromkeys(labels))
    each = len(labels) // len(kinds)
    if len(kinds) > 1 and 1 < each <= 16 and labels == [kind for kind in kinds for _ in range(each)]:
        return each
    return len(labels) if len(labels) <= 10 else min(20, math.ceil(len(labels) ** 0.5))
