"""`ditkit data reconstruct`: what an autoencoder loses of your images, before you train on its latents for a week."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..io import text
from . import console
from .annotated import (
    DATA,
    OUTPUT,
    Autoencoder,
    Config,
    DataDir,
    Debug,
    Device,
    Force,
    ImageSize,
    Json,
    LabelFile,
    Quiet,
    RunsDir,
    Settings,
)
from .data_show import Target

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..latents.codec import Reconstruction


EXAMPLES = (
    "Examples:\n\nditkit data reconstruct ./photos --autoencoder taesd3 --image-size 128\n"
    "ditkit data reconstruct celeba-latent --data-dir ~/celeba"
)
_SMALLEST_CELL, _COLUMNS, _SHOWN = 128, 4, 24

Count = Annotated[
    int,
    typer.Option("--count", metavar="N", min=1, max=10_000, help="Images to encode and decode.", rich_help_panel=DATA),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        show_default="reconstruct-NAME.png",
        help="Where the picture goes.",
        rich_help_panel=OUTPUT,
    ),
]


def run(
    target: Target = None,
    data_dir: DataDir = None,
    label_file: LabelFile = None,
    image_size: ImageSize = None,
    autoencoder: Autoencoder = None,
    count: Count = 16,
    config: Config = None,
    settings: Settings = None,
    runs_dir: RunsDir = None,
    out: Out = None,
    force: Force = False,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """See what an autoencoder loses: originals beside what comes back from their latents, with the PSNR of each.

    Nothing that is lost here can a model of these latents ever draw. 25 dB is blurred, 30 dB is good, more is better.
    """
    from ..autoencoders.files import PIXEL
    from ..errors import UsageError
    from ..io import text
    from ..runs import target as run_target
    from . import datasets, outputs, parsing

    if target is None and config is None:
        raise UsageError("reconstruct what?", "e.g. `ditkit data reconstruct ./photos --autoencoder taesd3`")
    flags = {
        "--data-dir": data_dir,
        "--label-file": label_file,
        "--image-size": image_size,
        "--autoencoder": autoencoder,
    }
    resolved, name = run_target.resolve(
        target or "", file=config, settings=settings or [], flags=flags, runs_dir=runs_dir
    )
    if resolved.autoencoder.name == PIXEL:
        raise UsageError("there is no autoencoder in these settings", "name one: --autoencoder taesd3")
    path = outputs.png_path(out, f"reconstruct-{text.slug(name)}", force=force)
    parsing.device(device)
    datasets.find_autoencoder(resolved, quiet=quiet)
    pairs = _reconstructed(resolved, count, device, quiet=quiet)
    _draw(pairs, resolved, path)
    _tell(pairs, resolved, path, as_json=as_json, quiet=quiet)


def _reconstructed(config: RunConfig, count: int, device: str, *, quiet: bool) -> list[Reconstruction]:
    from .datasets import open_images, watching

    images = open_images(config, quiet=quiet)
    with console.loading_torch(quiet=quiet):
        from ..latents.codec import reconstruct
        from ..runtime.device import find_device
    with watching(quiet=quiet), console.bar("reconstructing", quiet=quiet) as show:
        return reconstruct(config, images, count, device=find_device(device), on_image=show)


def _draw(pairs: list[Reconstruction], config: RunConfig, path: Path) -> None:
    """A page of originals, each with what came back on its right."""
    import numpy as np

    from ..visual.grid import grid, save_png

    factor = -(-_SMALLEST_CELL // max(config.data.image_size))
    cells = [
        np.concatenate([one.original, one.decoded], axis=1).repeat(factor, 0).repeat(factor, 1)
        for one in pairs[:_SHOWN]
    ]
    captions = [f"{one.psnr:.1f} dB" for one in pairs[:_SHOWN]]
    title = f"{config.autoencoder.source}: original | decoded"
    picture = grid(cells, min(_COLUMNS, len(cells)), captions=captions, title=title, scale=1)
    save_png(picture, path, {"autoencoder": str(config.autoencoder.source), "software": "ditkit"})


def _tell(pairs: list[Reconstruction], config: RunConfig, path: Path, *, as_json: bool, quiet: bool) -> None:
    finite = [one.psnr for one in pairs if math.isfinite(one.psnr)] or [math.inf]
    mean, worst, best = sum(finite) / len(finite), min(finite), max(finite)
    if as_json:
        figures: dict[str, Any] = {"psnr_db": mean, "worst_db": worst, "best_db": best}
        known = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        console.data(json.dumps({**known, "images": len(pairs), "picture": str(path)}))
    elif not quiet:
        height, width = config.data.image_size
        channels, *latent = config.shape
        console.data(f"{len(pairs)} images of {height}x{width} as {channels}x{latent[0]}x{latent[1]} latents and back")
        console.data(f"PSNR {mean:.1f} dB on average, from {worst:.1f} to {best:.1f}")
        console.data(f"picture: {text.flat(str(path))}")
