"""`ditkit sample`: labels to images, each a PNG that says where it came from, and one grid."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .options import (
    DIFFUSION,
    MACHINE,
    OUTPUT,
    Debug,
    Device,
    Guidance,
    Json,
    Labels,
    Model,
    Quiet,
    RawWeights,
    RunsDir,
    Sampler,
    SampleSteps,
)

if TYPE_CHECKING:
    from ..card import Card
    from ..sampling import Sample

EXAMPLES = (
    "Examples:\n\nditkit sample\nditkit sample --labels female male female --seed 7 --out faces\n"
    "ditkit sample --labels '3*16' --model runs/mnist --guidance 3"
)
UNCONDITIONAL = 16  # images when nothing is asked for
IN_GRID = 400  # images, at most
IN_BATCH = 64

Interval = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--guidance-interval",
        metavar="FROM TO",
        show_default="as trained",
        help="Guide only where the noise level lies between these parts (0 to 1) of its range.",
        rich_help_panel=DIFFUSION,
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", metavar="N", help="Image i is drawn from seed N + i.", rich_help_panel=DIFFUSION)
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", show_default="a new folder in samples/", help="Where images go.", rich_help_panel=OUTPUT
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite images that are in --out.", rich_help_panel=OUTPUT)]
BatchSize = Annotated[
    int,
    typer.Option("--batch-size", metavar="N", help="Images drawn at once; changes no image.", rich_help_panel=MACHINE),
]


def run(
    labels: Labels = None,
    steps: SampleSteps = None,
    guidance: Guidance = None,
    guidance_interval: Interval = None,
    sampler: Sampler = None,
    seed: Seed = 0,
    model: Model = None,
    no_ema: RawWeights = False,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
    runs_dir: RunsDir = None,
    device: Device = "auto",
    batch_size: BatchSize = IN_BATCH,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw images from a trained model, one for each label.

    Each becomes a PNG of the model's own size that carries its label, seed and checkpoint; grid.png shows them all.
    """
    from . import words

    order = read_order(
        labels,
        {
            "--steps": steps,
            "--guidance": guidance,
            "--guidance-interval": guidance_interval,
            "--sampler": sampler,
            "--seed": seed,
            "--batch-size": batch_size,
        },
        model=model,
        runs_dir=runs_dir,
        ema=not no_ema,
    )
    words.device(device)
    folder = out.expanduser() if out else words.free_name(Path("samples") / order.name)
    names = [
        f"{index:0{order.digits}d}{f'-{words.slug(label)}' if label else ''}.png"
        for index, label in enumerate(order.labels)
    ]
    check_folder(folder, [*names, "grid.png"], force=force)
    drawn: list[Sample] = []
    records: list[dict[str, Any]] = []
    for one in draw(order, device, quiet=quiet):
        path = folder / names[len(records)]
        _save(one, path, order)
        records.append({"path": str(path), "label": one.label, "seed": one.seed})
        drawn.extend([one] if len(drawn) < IN_GRID else [])
    grid_path = folder / "grid.png"
    _save_grid(drawn, grid_path, order)
    _tell(records, grid_path, folder, as_json=as_json, quiet=quiet)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be drawn, all checked, before torch is there."""

    weights: Path
    card: Card
    name: str  # of the folder of images
    labels: list[str]  # "any" for each image of an unconditional model
    seed: int
    batch_size: int
    sampler: str
    steps: int
    guidance: float
    interval: tuple[float, float]

    @property
    def digits(self) -> int:
        return max(3, len(str(len(self.labels) - 1)))

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
            "software": "ditkit",
        }


_SETTINGS = {
    "--steps": "sample.steps",
    "--guidance": "sample.guidance",
    "--sampler": "sample.sampler",
    "--seed": "seed",
}
_SETTINGS |= {"--batch-size": "train.batch_size"}


def read_order(
    labels: list[str] | None, flags: dict[str, Any], *, model: str | None, runs_dir: Path | None, ema: bool
) -> Order:
    """Words and the weights' own card as an Order. Raises UsageError for every mistake in them."""
    from .. import recipes
    from ..card import read_card
    from ..config import to_dict
    from ..errors import UsageError
    from ..run_folder import find_weights
    from ..run_folder import runs_dir as runs_place
    from . import targets, words

    weights = find_weights(model, runs_place(runs_dir), ema=ema)
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
        batch_size=config.train.batch_size,
        sampler=config.sample.sampler,
        steps=config.sample.steps,
        guidance=config.sample.guidance,
        interval=(config.sample.guidance_from, config.sample.guidance_to),
    )


def _model_name(weights: Path) -> str:
    """The run's name for runs/NAME/checkpoints/step-…/ema.safetensors, else the file's."""
    from . import words

    place = weights.resolve()
    inside_run = place.parent.parent.name == "checkpoints"
    return words.slug(place.parent.parent.parent.name if inside_run else place.stem)


def check_folder(folder: Path, names: list[str], *, force: bool) -> None:
    """Raise DitkitError when the images cannot go there, or would overwrite others without --force."""
    import os

    from ..errors import DitkitError, UsageError

    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise UsageError(f"--out: {existing} is a file", "name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise DitkitError(f"cannot write to {existing}", "choose another folder with --out")
    there = set(os.listdir(folder)) if folder.is_dir() and not force else set()  # noqa: PTH208
    taken = [name for name in names if name in there]
    if taken:
        raise DitkitError(
            f"{folder / taken[0]} is there already" + (f", and {len(taken) - 1} more" if taken[1:] else ""),
            "overwrite with --force, or choose another folder with --out",
        )


def draw(
    order: Order, device: str, *, quiet: bool, on_estimate: Callable[[int, int, Any], None] | None = None
) -> Iterator[Sample]:
    """The images of an order, a batch at a time, so that memory stays bounded and a stop loses little."""
    with console.loading_torch(quiet=quiet):
        from ..checkpoint import load
        from ..device import find_device
        from ..sampling import sample

        trained = load(order.weights, device=find_device(device))
    with console.bar("drawing", quiet=quiet) as show:

        def on_step(step: int, steps: int, estimate_BCHW: Any) -> None:
            show(first + (step + 1) / steps * len(estimate_BCHW), len(order.labels))
            if on_estimate:
                on_estimate(step, steps, estimate_BCHW)

        for first in range(0, len(order.labels), order.batch_size):
            labels = order.labels[first : first + order.batch_size]
            yield from sample(
                trained,
                labels,
                seed=order.seed + first,
                sampler=order.sampler,
                steps=order.steps,
                guidance=order.guidance,
                guidance_interval=order.interval,
                batch_size=order.batch_size,
                on_step=on_step,
            )


def _save(one: Sample, path: Path, order: Order) -> None:
    from ..images import save_png

    label = {"label": one.label} if one.label else {}
    save_png(one.image, path, {**label, "seed": str(one.seed), **order.text})


def _save_grid(drawn: list[Sample], path: Path, order: Order) -> None:
    from ..images import grid, save_png

    captions = [one.label or f"seed {one.seed}" for one in drawn]
    title = f"{order.name}: the first {len(drawn)} of {len(order.labels)}" if len(drawn) < len(order.labels) else None
    picture = grid([one.image for one in drawn], columns(order.labels[:IN_GRID]), captions=captions, title=title)
    save_png(picture, path, {"labels": " ".join(order.labels[:IN_GRID]), "seed": str(order.seed), **order.text})


def columns(labels: list[str]) -> int:
    """Rows of equal labels where that is what was asked for; one row for few; else about square."""
    each = len(labels) // len(set(labels))
    if (
        1 < each <= 16
        and len(set(labels)) > 1
        and labels == [label for label in dict.fromkeys(labels) for _ in range(each)]
    ):
        return each
    return len(labels) if len(labels) <= 10 else min(20, round(len(labels) ** 0.5 + 0.499))


def _tell(records: list[dict[str, Any]], grid: Path, folder: Path, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        console.data(json.dumps({"images": records, "grid": str(grid)}))
        return
    if quiet:
        return
    for record in records[:100]:
        console.data(record["path"])
    if len(records) > 100:
        console.say(f"… and {len(records) - 100} more in {folder}")
    console.data(str(grid))
