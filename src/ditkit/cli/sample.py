"""`ditkit sample`: labels to images, each a PNG that says where it came from, and one grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console
from .opt import examples
from .options import DrawingDevice, Model, Output, SampleSettings
from .outputs import output_folder

if TYPE_CHECKING:
    from ..runtime.distributed import ProcessGroup
    from ..sampling.generate import Sample
    from .sample_request import SampleRequest

GRID = "grid.png"
MAX_IN_GRID = 400  # images
MAX_LISTED = 100  # paths


@examples(
    "ditkit sample",
    "ditkit sample --labels female male female --seed 7 --out faces",
    "ditkit sample --labels '3*16' --model runs/mnist --guidance 3",
)
def run(settings: SampleSettings, model: Model, output: Output, device: DrawingDevice) -> None:
    """Draw images from a trained model, one for each label.

    Each becomes a PNG of the model's own size that carries its label, seed and checkpoint; grid.png shows them all.
    """
    from . import original_faces
    from .datasets import launched_together, watching
    from .sample_request import on_backend, resolve_request

    def prepare() -> tuple[SampleRequest, Path]:
        faces = original_faces.faces
        offered = None if model.model else faces(settings.labels, output.runs, yes=output.yes, quiet=output.quiet)
        with watching(quiet=output.quiet, yes=output.yes):
            request = resolve_request(settings, model, device, output.runs, default=offered)
        request = on_backend(request, device.backend)
        return request, output_folder(output, Path("samples") / request.name, [*request.file_names, GRID])

    with launched_together(device.device, quiet=output.quiet) as group:
        request, folder = group.run_together(prepare)
        records = _draw(request, folder, device.device, group, quiet=output.quiet or not group.is_main)
    if group.is_main:
        show_images(records, folder, output)


def _draw(
    request: SampleRequest, folder: Path, device: str, group: ProcessGroup, *, quiet: bool
) -> list[dict[str, Any]]:
    """Write every image as soon as it is drawn, then the grid; returns what --json prints of each image."""
    from .sample_request import draw

    names = request.file_names
    in_grid: list[Sample] = []
    records: list[dict[str, Any]] = []
    for image in draw(request, device, quiet=quiet, group=group):
        if group.is_main:
            records.append(save_image(image, folder / names[len(records)], request.png_metadata))
            in_grid.extend([image] if len(in_grid) < MAX_IN_GRID else [])
    group.run_together(lambda: _save_grid(in_grid, folder / GRID, request) if group.is_main else None)
    return records


def save_image(image: Sample, path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Write an image as a PNG that says its label, its seed and `metadata`; returns what --json prints of it."""
    from ..visual.grid import save_png

    label = {"label": image.label} if image.label else {}
    save_png(image.image, path, {**label, "seed": str(image.seed), **metadata})
    return {"path": str(path), "label": image.label, "seed": image.seed}


def caption(image: Sample) -> str:
    """What stands below an image in a grid."""
    return image.label or f"seed {image.seed}"


def _save_grid(images: list[Sample], path: Path, request: SampleRequest) -> None:
    from ..visual.grid import columns, grid, save_png

    count, labels = len(request.labels), request.labels[:MAX_IN_GRID]
    title = f"{request.name}: the first {len(images)} of {count}" if len(images) < count else None
    pixels, captions = [image.image for image in images], [caption(image) for image in images]
    picture = grid(pixels, columns(labels), captions=captions, title=title)
    save_png(picture, path, {"labels": " ".join(labels), "seed": str(request.seed), **request.png_metadata})


def show_images(records: list[dict[str, Any]], folder: Path, output: Output) -> None:
    """Print the paths of the images, of which `records` are what `save_image` returned, and of the grid."""
    grid = str(folder / GRID)
    if output.json:
        console.data(json.dumps({"images": records, "grid": grid}))
    elif not output.quiet:
        for record in records[:MAX_LISTED]:
            console.data(record["path"])
        if len(records) > MAX_LISTED:
            console.say(f"… and {len(records) - MAX_LISTED} more in {folder}")
        console.data(grid)
