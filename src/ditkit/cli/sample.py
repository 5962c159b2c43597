"""`ditkit sample`: labels to images, each a PNG that says where it came from, and one grid."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import complete, console
from .annotated import (
    DIFFUSION,
    MACHINE,
    MODEL,
    OUTPUT,
    Autoguide,
    Debug,
    Device,
    EmaLength,
    Force,
    Guidance,
    Json,
    Labels,
    Model,
    Quiet,
    RawWeights,
    RunsDir,
    Sampler,
    SampleSteps,
    Yes,
)

if TYPE_CHECKING:
    from ..runtime.distributed import ProcessGroup
    from ..sampling.generate import Sample
    from .sample_request import SampleRequest


EXAMPLES = (
    "Examples:\n\nditkit sample\nditkit sample --labels female male female --seed 7 --out faces\n"
    "ditkit sample --labels '3*16' --model runs/mnist --guidance 3"
)
IN_GRID = 400  # images, at most

Interval = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--guidance-interval",
        metavar="FROM TO",
        show_default="as trained",
        help="Guide only where the noise level lies between these parts (0 to 1) of its range.",
        rich_help_panel=DIFFUSION,
    ),
]
Seed = Annotated[
    str, typer.Option("--seed", metavar="N", help="Image i is drawn from seed N + i.", rich_help_panel=DIFFUSION)
]
MovedAutoencoder = Annotated[
    Path | None,
    typer.Option(
        "--autoencoder",
        metavar="FOLDER",
        show_default="where it was in training",
        help="Where the autoencoder of a model of latents lies now, should it have moved.",
        rich_help_panel=MODEL,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", show_default="a new folder in samples/", help="Where images go.", rich_help_panel=OUTPUT
    ),
]
Reuse = Annotated[
    str | None,
    typer.Option(
        "--reuse",
        metavar="N",
        show_default="as trained, 1 being none",
        help="Go through the network's blocks in every N-th call only: about N times as fast, not quite as good.",
        rich_help_panel=DIFFUSION,
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        autocompletion=complete.backends,
        help="What computes, torch or jax (`pip install 'ditkit\\[jax]'`): the same images, up to rounding.",
        rich_help_panel=MACHINE,
    ),
]
BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size",
        metavar="N",
        help="Images drawn at once, as many as memory suits if auto; changes no image.",
        rich_help_panel=MACHINE,
    ),
]


def run(
    labels: Labels = None,
    steps: SampleSteps = None,
    guidance: Guidance = None,
    guidance_interval: Interval = None,
    sampler: Sampler = None,
    reuse: Reuse = None,
    autoguide: Autoguide = None,
    seed: Seed = "0",
    model: Model = None,
    autoencoder: MovedAutoencoder = None,
    ema: EmaLength = None,
    no_ema: RawWeights = False,
    out: Out = None,
    force: Force = False,
    yes: Yes = False,
    as_json: Json = False,
    runs_dir: RunsDir = None,
    device: Device = "auto",
    backend: Backend = "torch",
    batch_size: BatchSize = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw images from a trained model, one for each label.

    Each becomes a PNG of the model's own size that carries its label, seed and checkpoint; grid.png shows them all.
    """
    from .datasets import launched_together

    flags = {
        "--steps": steps,
        "--guidance": guidance,
        "--guidance-interval": guidance_interval,
        "--sampler": sampler,
        "--reuse": reuse,
        "--autoguide": autoguide,
        "--ema": ema,
        "--seed": seed,
        "--batch-size": batch_size,
    }

    def prepare() -> tuple[SampleRequest, Path]:
        from ..runs.folder import runs_dir as runs_place
        from . import original_faces, outputs, parsing
        from .datasets import watching
        from .sample_request import on_backend, resolve_request

        offered = None if model else original_faces.faces(labels, runs_place(runs_dir), yes=yes, quiet=quiet)
        with watching(quiet=quiet, yes=yes):
            order = resolve_request(labels, flags, model=model or offered, runs_dir=runs_dir, ema=not no_ema)
        order = on_backend(order, backend)
        order = replace(order, autoencoder=outputs.autoencoder_folder(autoencoder))
        parsing.device(device)
        return order, _place(order, out, force=force)

    with launched_together(device, quiet=quiet) as group:
        order, folder = group.run_together(prepare)
        _draw(order, folder, device, group, as_json=as_json, quiet=quiet or not group.is_main)


def _place(order: SampleRequest, out: Path | None, *, force: bool) -> Path:
    """The folder of the images. Raises DitkitError when they cannot go there."""
    from ..io.paths import expanded
    from ..io.text import free_name
    from .outputs import check_folder

    folder = expanded(out) if out else free_name(Path("samples") / order.name)
    check_folder(folder, [*order.file_names, "grid.png"], force=force)
    return folder


def _draw(order: SampleRequest, folder: Path, device: str, group: ProcessGroup, *, as_json: bool, quiet: bool) -> None:
    from .sample_request import draw

    names = order.file_names
    drawn: list[Sample] = []
    records: list[dict[str, Any]] = []
    for one in draw(order, device, quiet=quiet, group=group):
        if not group.is_main:
            continue
        path = folder / names[len(records)]
        save_one(one, path, order.png_metadata)
        records.append({"path": str(path), "label": one.label, "seed": one.seed})
        drawn.extend([one] if len(drawn) < IN_GRID else [])

    def finish() -> None:
        if group.is_main:
            _save_grid(drawn, folder / "grid.png", order)

    group.run_together(finish)
    if group.is_main:
        tell_drawn(records, folder, as_json=as_json, quiet=quiet)


def save_one(one: Sample, path: Path, text: dict[str, str]) -> None:
    """Write a drawn image as a PNG that says its label, its seed and `text`."""
    from ..visual.grid import save_png

    label = {"label": one.label} if one.label else {}
    save_png(one.image, path, {**label, "seed": str(one.seed), **text})


def _save_grid(drawn: list[Sample], path: Path, order: SampleRequest) -> None:
    from ..visual.grid import columns, grid, save_png

    captions = [one.label or f"seed {one.seed}" for one in drawn]
    title = f"{order.name}: the first {len(drawn)} of {len(order.labels)}" if len(drawn) < len(order.labels) else None
    picture = grid([one.image for one in drawn], columns(order.labels[:IN_GRID]), captions=captions, title=title)
    save_png(picture, path, {"labels": " ".join(order.labels[:IN_GRID]), "seed": str(order.seed), **order.png_metadata})


def tell_drawn(records: list[dict[str, Any]], folder: Path, *, as_json: bool, quiet: bool) -> None:
    """Print the places of the images ({"path", "label", "seed"} each) and of the grid.png beside them."""
    grid = folder / "grid.png"
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
