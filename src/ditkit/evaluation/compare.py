"""Compare(): runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli import console
from ..io import text

if TYPE_CHECKING:
    from ..cli.sample_request import SampleRequest
    from ..config import RunConfig
    from ..runs.folder import RunFolder

SHOWN = 10  # images of each run
FILES = ("losses.png", "samples.png", "compare.md", "compare.json")


def _row(folder: RunFolder, order: SampleRequest) -> dict[str, Any]:
    """What there is to say of a run in numbers."""
    from ..errors import DataError
    from ..models.size import parameters
    from ..runs.metrics import read_evaluations, spent_seconds

    rows = folder.metrics()
    validation = [row["validation_loss"] for row in rows if "validation_loss" in row]
    config = order.info.config
    found: dict[str, Any] = {
        "run": folder.path.resolve().name,
        "step": order.info.step,
        "parameters": parameters(config, len(order.info.labels)),
        "batch size": config.train.batch_size,
        "minutes in steps": spent_seconds(rows) / 60,
        "validation loss": validation[-1] if validation else None,
        "best": min(validation) if validation else None,
    }
    try:
        records = read_evaluations(folder.evaluation_file)
    except DataError:
        records = []
    if records:
        newest = records[-1]
        found |= {
            f"{key} ({newest.get('drawn', {}).get('samples')} images)": value
            for key, value in newest["metrics"].items()
            if key in ("frechet", "kid", "accuracy")
        }
    return found


def _differing(configs: list[RunConfig]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs: what each has."""
    from functools import reduce

    from ..config import differences

    keys = dict.fromkeys(key for other in configs[1:] for key in differences(configs[0], other))
    return {key: [reduce(getattr, key.split("."), config) for config in configs] for key in keys}


def _write(
    place: Path,
    folders: list[RunFolder],
    orders: list[SampleRequest],
    table: list[dict[str, Any]],
    differing: dict[str, list[Any]],
    device: str,
    *,
    quiet: bool,
) -> None:
    from ..io.atomic import make_folder, write_atomically

    console.hush_matplotlib()
    with console.loading_torch(quiet=quiet):
        from ..visual.plots import plot_losses, save_figure
    make_folder(place)
    rows = {str(row["run"]): folder.metrics() for row, folder in zip(table, folders, strict=True)}
    save_figure(plot_losses(rows), place / "losses.png")
    _draw(place / "samples.png", orders, [str(row["run"]) for row in table], device, quiet=quiet)
    write_atomically(place / "compare.md", "\n".join(_lines(table, differing)) + "\n")
    record = {"runs": table, "differing": differing}
    write_atomically(place / "compare.json", json.dumps(record, indent=1) + "\n")


def _draw(path: Path, orders: list[SampleRequest], names: list[str], device: str, *, quiet: bool) -> None:
    """A row of samples for each run: of the labels that all know, from equal seeds."""
    from dataclasses import replace

    from ..cli.sample_request import draw
    from ..visual.grid import grid, save_png

    known = [set(order.labels) for order in orders]
    common = [label for label in orders[0].labels if all(label in one for one in known)][:SHOWN]
    across = len(common) or SHOWN
    images, captions = [], []
    for order in orders:
        wanted = ((common or order.labels) * across)[:across]  # rows of one length
        drawn = list(draw(replace(order, labels=wanted), device, quiet=quiet))
        images += [one.image for one in drawn]
        captions += [one.label or f"seed {one.seed}" for one in drawn]
    save_png(grid(images, across, captions=captions, row_names=names), path, {"software": "ditkit"})


def _lines(table: list[dict[str, Any]], differing: dict[str, list[Any]]) -> list[str]:
    """Two tables of Markdown: figures, and the settings that differ."""
    heads = list(dict.fromkeys(key for row in table for key in row))
    lines = text.markdown(heads, [[_spoken(row.get(head)) for head in heads] for row in table])
    if differing:
        lines += [""]
        names = [str(row["run"]) for row in table]
        lines += text.markdown(["setting", *names], [[key, *map(_spoken, values)] for key, values in differing.items()])
    return lines


def _spoken(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else text.flat(str(value))
