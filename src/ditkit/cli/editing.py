"""What `edit inpaint` and `edit img2img` share: reading the image, drawing, and the files that come of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console

if TYPE_CHECKING:
    import numpy as np

    from ..config import DataConfig
    from ..sampling.generate import Sample
    from .sample_request import SampleRequest


Picture = Annotated[
    Path | None, typer.Argument(metavar="IMAGE", show_default=False, help="The image to change: PNG, JPEG, WebP …")
]
MOST_IMAGES = 100


def carry_out(
    picture: Path | None,
    labels: list[str] | None,
    flags: dict[str, Any],
    *,
    mask: Path | None,
    strength: float,
    model: str | None,
    ema: bool,
    out: Path | None,
    force: bool,
    yes: bool,
    as_json: bool,
    runs_dir: Path | None,
    device: str,
    quiet: bool,
) -> None:
    """Check everything, draw one image for each label, and write them beside a grid that begins with the original."""
    from ..errors import UsageError
    from ..io import text
    from ..io.paths import expanded
    from . import parsing
    from .datasets import watching
    from .outputs import check_folder
    from .sample import save_one, tell_drawn
    from .sample_request import resolve_request

    if picture is None:
        raise UsageError("which image is to be changed?", "e.g. `ditkit edit img2img photo.png`")
    with watching(quiet=quiet, yes=yes):
        order = resolve_request(labels, flags, model=model, runs_dir=runs_dir, ema=ema)
    if len(order.labels) > MOST_IMAGES:
        raise UsageError(f"{len(order.labels)} images are more than {MOST_IMAGES}", "ask for fewer with --labels")
    parsing.device(device)
    folder = expanded(out) if out else text.free_name(Path("edits") / f"{text.slug(picture.stem)}-{order.name}")
    check_folder(folder, [*order.file_names, "grid.png"], force=force)
    original, paint = _read(expanded(picture), expanded(mask) if mask else None, order.info.config.data)
    drawn = _draw(order, original, paint, strength, device, quiet=quiet)
    about = {**order.png_metadata, "edited": picture.name, "strength": f"{strength:g}"}
    records = []
    for name, one in zip(order.file_names, drawn, strict=True):
        save_one(one, folder / name, about)
        records.append({"path": str(folder / name), "label": one.label, "seed": one.seed})
    _save_grid(drawn, original, paint, folder / "grid.png", about)
    tell_drawn(records, folder, as_json=as_json, quiet=quiet)


def _read(picture: Path, mask: Path | None, data: DataConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """The image as the model's training images were prepared, and where it is to be painted."""
    from PIL import Image

    from ..data.decode import examine, fit, open_file
    from ..errors import UsageError

    height, width = data.image_size
    for path in (picture, mask):
        if path is not None and not path.is_file():
            raise UsageError(f"there is no file {path}", "check the path")
    image, header = examine(lambda: open_file(picture), picture.name, data.channels)
    original = fit(image, height, width, crop=data.crop)
    if mask is None:
        return original, None
    cover, its = examine(lambda: open_file(mask), mask.name, 1)
    if its.size != header.size:
        sizes = [" x ".join(map(str, one.size)) for one in (its, header)]
        raise UsageError(f"the mask is {sizes[0]} pixels, the image {sizes[1]}", "they must be of one size")
    paint = fit(cover, height, width, resample=Image.Resampling.BOX, crop=data.crop)[:, :, 0] > 127
    if not paint.any():
        raise UsageError(f"{mask} is black where the model looks: nothing is to be painted", "make that part white")
    return original, paint


def _draw(
    order: SampleRequest, original: np.ndarray, paint: np.ndarray | None, strength: float, device: str, *, quiet: bool
) -> list[Sample]:
    with console.loading_torch(quiet=quiet):
        from ..checkpoint.loading import load
        from ..runtime.device import find_device
        from ..sampling.edit import edit
    trained = load(order.weights, device=find_device(device))
    with console.bar("drawing", quiet=quiet) as show:
        return edit(
            trained,
            original,
            order.labels,
            paint=paint,
            strength=strength,
            seed=order.seed,
            settings=order.settings,
            on_step=lambda step, steps, *_: show(step + 1, steps),
        )


def _save_grid(
    drawn: list[Sample], original: np.ndarray, paint: np.ndarray | None, path: Path, about: dict[str, str]
) -> None:
    """The results behind the original, and behind what of it is to be painted."""
    from ..visual.grid import grid, save_png

    cells, captions = [original], ["original"]
    if paint is not None:
        covered = original.copy()
        covered[paint] = 128
        cells.append(covered)
        captions.append("to be painted")
    cells += [one.image for one in drawn]
    captions += [one.label or f"seed {one.seed}" for one in drawn]
    save_png(grid(cells, min(8, len(cells)), captions=captions), path, about)
