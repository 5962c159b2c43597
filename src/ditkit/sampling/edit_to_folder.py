"""A request to edit an image, carried out: the results and a grid that begins with the original, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.progress import LOADING_TORCH, Watch, no_progress
from .request import GRID, SampleRequest, load_models, save_image

if TYPE_CHECKING:
    import numpy as np

    from .samples import Sample


def edit_to_folder(
    request: SampleRequest,
    image: np.ndarray,
    folder: Path,
    *,
    name: str,
    paint: np.ndarray | None = None,
    strength: float = 1.0,
    device: str = "auto",
    progress: Watch = no_progress,
) -> list[dict[str, Any]]:
    """Write one edited image for each label of a request, and a grid; returns path, label and seed of each.

    `image`, `paint` and `strength` are those of `sampling.edit`; `name` is what the files call the original.
    """
    with progress(LOADING_TORCH):
        from ..runtime.device import find_device
        from .edit import edit
    trained, _ = load_models(request, find_device(device))
    with progress("drawing") as show:
        results = edit(
            trained,
            image,
            request.labels,
            paint=paint,
            strength=strength,
            seed=request.seed,
            settings=request.settings,
            on_step=lambda step, steps, *_: show(step + 1, steps),
        )
    metadata = {**request.png_metadata, **trained.compute.record, "edited": name, "strength": f"{strength:g}"}
    files = [folder / name for name in request.file_names]
    records = [save_image(result, file, metadata) for result, file in zip(results, files, strict=True)]
    _save_grid(results, image, paint, folder / GRID, metadata)
    return records


def _save_grid(
    results: Sequence[Sample], original: np.ndarray, paint: np.ndarray | None, path: Path, metadata: Mapping[str, str]
) -> None:
    """Write edited images behind the original, and behind what of it is to be painted, as one PNG."""
    from ..visual.grid import grid, save_png

    cells, captions = [original], ["original"]
    if paint is not None:
        covered = original.copy()
        covered[paint] = 128
        cells.append(covered)
        captions.append("to be painted")
    cells += [result.image for result in results]
    captions += [result.caption for result in results]
    save_png(grid(cells, min(8, len(cells)), captions=captions), path, metadata)
