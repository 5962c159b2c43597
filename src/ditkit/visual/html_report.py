"""A run as one HTML page that holds everything and needs no network."""

from __future__ import annotations

import base64
import html
import io
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from .. import __version__, recipes
from ..config import RunConfig
from ..errors import DataError
from ..io.reading import open_picture, read_json, read_regular
from ..io.text import plus_minus
from ..runs.folder import RunFolder
from ..runs.metrics import read_evaluations, read_rows, spent_seconds
from ..runs.public import without_places
from .gif import thinned
from .plots import plot_losses, rendered

MOST_GRIDS = 40
WIDEST_GRID = 1000  # pixels
LARGEST_GIF = 8_000_000  # bytes


def run_report(folder: RunFolder) -> str:
    """The page of a run. Raises DataError for a run without losses."""
    rows = folder.metrics()
    losses = [row for row in rows if "loss" in row]
    if not losses:
        raise DataError(f"{folder.path} has no losses yet", "train it first")
    config = folder.read_config()
    name = folder.path.resolve().name
    sections = [
        _facts(folder, config, rows),
        _grids(folder),
        _curves(name, rows),
        _evaluations(folder),
        _animation(folder.path / "progress.gif"),
        _environment(folder),
    ]
    return _template("report.html").substitute(
        name=_text(name),
        summary=_text(_summary(config, rows)),
        sections="\n".join(filter(None, sections)),
        settings=_text(recipes.dump(without_places(config))),
        version=_text(__version__),
        date=time.strftime("%Y-%m-%d"),
    )


def _template(name: str) -> Template:
    """A page of this package; what is put into it is escaped before (`_text`)."""
    return Template(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _summary(config: RunConfig, rows: Sequence[Mapping[str, Any]]) -> str:
    height, width = config.data.image_size
    model = config.model
    return (
        f"A Diffusion Transformer of {config.data.name} images, {height}x{width}: patch {model.patch}, width "
        f"{model.width}, {model.depth} blocks, {model.conditioning}; {config.diffusion.process}, "
        f"{config.diffusion.objective}-prediction; {rows[-1]['step']:,} of {config.train.steps:,} steps."
    )


def _facts(folder: RunFolder, config: RunConfig, rows: Sequence[Mapping[str, Any]]) -> str:
    losses = [row for row in rows if "loss" in row]
    facts = {"steps": f"{losses[-1]['step']:,}", "batch size": f"{config.train.batch_size:,}"}
    validation = [row["validation_loss"] for row in rows if "validation_loss" in row]
    if validation:
        facts["validation loss"] = f"{validation[-1]:.4f}"
        facts["best validation loss"] = f"{min(validation):.4f}"
    distances = [plus_minus(row["kid"], row.get("kid_error")) for row in rows if "kid" in row]
    if distances:
        facts["KID, while it trained"] = distances[-1]
    seconds = spent_seconds(losses)
    if seconds:
        facts["time in steps"] = f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.1f} min"
    facts["incidents"] = str(len(read_rows(folder.incidents_file)))
    cells = "".join(f"<div>{_text(key)}<b>{_text(value)}</b></div>" for key, value in facts.items())
    return f'<div class="facts">{cells}</div>'


def _grids(folder: RunFolder) -> str:
    grids = folder.sample_grids()
    if not grids:
        return ""
    chosen = [grids[index] for index in thinned(len(grids), MOST_GRIDS)]
    frames = [[f"step {step:,}", source] for step, path in chosen if (source := _picture(path))]
    if not frames:
        return ""
    label, last = frames[-1]
    if len(frames) == 1:
        return f'<h2>Samples</h2><img class="grid" alt="samples" src="{last}"><p class="soft">{label}</p>'
    frames_json = json.dumps(frames).replace("<", "\\u003c")
    slider = _template("report_slider.html")
    return slider.substitute(picture=last, last=len(frames) - 1, label=label, grids=frames_json).rstrip("\n")


def _picture(path: Path) -> str | None:
    """A PNG as a data URI, made smaller if it is very wide; None for one that cannot be read."""
    try:
        shown = open_picture(path)
    except DataError:
        return None
    if shown.width > WIDEST_GRID:
        shown = shown.resize((WIDEST_GRID, round(shown.height * WIDEST_GRID / shown.width)))
    data = io.BytesIO()
    shown.save(data, format="PNG", optimize=True)
    return _uri("image/png", data.getvalue())


def _curves(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    plots = [("Loss", plot_losses({name: rows}))]
    if any(key in row for row in rows for key in ("loss_q1", "loss_q4")):
        plots.append(("Loss by noise level", plot_losses({name: rows}, by_noise=True)))
    return "".join(
        f'<h2>{title}</h2><img class="plot" alt="{title.lower()}" src="{_uri("image/png", rendered(figure))}">'
        for title, figure in plots
    )


def _evaluations(folder: RunFolder) -> str:
    try:
        records = read_evaluations(folder.evaluation_file)
    except DataError:
        return ""
    if not records:
        return ""
    metrics = list(dict.fromkeys(key for record in records for key in record["metrics"]))
    metrics = [key for key in metrics if not key.endswith("_error")]
    heads = ["step", "images", "labels", "sampler", "steps", "guidance", "features", *metrics]
    lines = []
    for record in records:
        drawn, features = record.get("drawn", {}), record.get("features", {})
        labels = {"data": "as in the data", None: None}.get(drawn.get("labels_as", "even"), "in turn")
        cells = [record.get("step"), drawn.get("samples"), labels, drawn.get("sampler"), drawn.get("steps")]
        cells += [drawn.get("guidance"), features.get("name"), *(_figure(record["metrics"], key) for key in metrics)]
        lines.append(_row("td", ["" if cell is None else _short(cell) for cell in cells]))
    table = f'<div class="wide"><table>{_row("th", heads)}{"".join(lines)}</table></div>'
    note = "± is one standard error; rows compare where images, labels and features are the same"
    return f'<h2>Evaluation</h2>{table}<p class="soft">{note}</p>'


def _figure(metrics: Mapping[str, float], key: str) -> str | None:
    return plus_minus(metrics[key], metrics.get(f"{key}_error")) if key in metrics else None


def _animation(path: Path) -> str:
    try:
        content = read_regular(path, LARGEST_GIF)
    except OSError:
        return ""
    return f'<h2>Training, in a few seconds</h2><img alt="progress" src="{_uri("image/gif", content)}">'


def _environment(folder: RunFolder) -> str:
    """What the newest readable checkpoint says of device, processes and versions."""
    facts: dict[str, Any] = {}
    for saved_step in reversed(folder.checkpoint_steps()):
        try:
            state = read_json(folder.checkpoint(saved_step) / "state.json")
            facts = {"device": state["device"], "processes": state["processes"], **state["versions"]}
            facts |= {"images": state.get("images") or "", "newest checkpoint": f"step {saved_step:,}"}
            break
        except (OSError, ValueError, KeyError, TypeError):
            continue
    if not facts:
        return ""
    lines = "".join(_row("td", [key, value]) for key, value in facts.items() if value != "")
    return f'<h2>Environment</h2><div class="wide"><table>{lines}</table></div>'


def _row(kind: str, cells: Iterable[Any]) -> str:
    return "<tr>" + "".join(f"<{kind}>{_text(cell)}</{kind}>" for cell in cells) + "</tr>"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _text(value: Any) -> str:
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
