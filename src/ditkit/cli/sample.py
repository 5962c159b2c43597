"""`ditkit sample`: labels to images, each a PNG that says where it came from, and one grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console
from .opt import examples
from .options import DrawingDevice, Model, Output, SampleSettings
from .outputs import npz_path, output_folder

if TYPE_CHECKING:
    from ..sampling.request import SampleRequest

MAX_LISTED = 100  # paths


@examples(
    "ditkit sample",
    "ditkit sample --labels female male female --seed 7 --out faces",
    'ditkit sample --labels "3*16" --model runs/mnist --guidance 3',
)
def run(settings: SampleSettings, model: Model, output: Output, device: DrawingDevice) -> None:
    """Draw images from a trained model, one for each label.

    Each becomes a PNG of the model's own size that carries its label, seed and checkpoint; grid.png shows them all.
    """
    from ..runtime.distributed import join_launched
    from ..sampling.request import GRID, draw_to_folder, on_backend
    from . import original_faces
    from .datasets import watching
    from .sample_request import resolve_request

    def prepare() -> tuple[SampleRequest, Path, Path | None]:
        faces = original_faces.faces
        offered = None if model.model else faces(settings.labels, output.runs, yes=output.yes, quiet=output.quiet)
        with watching(quiet=output.quiet, yes=output.yes):
            request = resolve_request(settings, model, device, output.runs, default=offered)
        request = on_backend(request, device.backend)
        npz = npz_path(output.npz, force=output.force)
        return request, output_folder(output, Path("samples") / request.name, [*request.file_names, GRID]), npz

    with join_launched(device.device, console.watch(quiet=output.quiet)) as group:
        request, folder, npz = group.run_together(prepare)
        quiet = output.quiet or not group.is_main
        with watching(quiet=quiet):
            records = draw_to_folder(
                request, folder, device.device, npz=npz, group=group, progress=console.watch(quiet=quiet)
            )
    if group.is_main:
        show_images(records, folder, output, npz)


def show_images(records: list[dict[str, Any]], folder: Path, output: Output, npz: Path | None = None) -> None:
    """Print the paths of the images, of which `records` are what `save_image` returned, of the grid, and of --npz."""
    from ..sampling.request import GRID

    grid = str(folder / GRID)
    if output.json:
        console.data(json.dumps({"images": records, "grid": grid, **({"npz": str(npz)} if npz else {})}))
    elif not output.quiet:
        for record in records[:MAX_LISTED]:
            console.data(record["path"])
        if len(records) > MAX_LISTED:
            console.say(f"… and {len(records) - MAX_LISTED} more in {folder}")
        console.data(grid)
        if npz:
            console.data(str(npz))
