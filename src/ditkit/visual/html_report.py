"""A run as one page of HTML that needs no network: to look at, to keep, to send to somebody."""

from __future__ import annotations

import base64
import html
import io
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .. import __version__, recipes
from ..config import RunConfig
from ..errors import DataError
from ..runs.folder import RunFolder
from ..runs.metrics import read_evaluations, read_rows, spent_seconds
from .gif import thinned
from .plots import plot_losses, rendered

MOST_GRIDS = 40
WIDEST_GRID = 1000  # pixels
LARGEST_GIF = 8_000_000  # bytes
_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --soft: #676c76; --ground: #fff; --line: #dcdfe4; --accent: #3565c8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaee; --soft: #9aa1ad; --ground: #15171b; --line: #33373f; --accent: #8fb0f5 }
  img.plot { filter: invert(1) hue-rotate(180deg) }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 62rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif }
h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere } h2 { margin: 2.2rem 0 .6rem; font-size: 1.15rem }
p { margin: .3rem 0 } .soft { color: var(--soft) } img { max-width: 100%; height: auto; display: block }
.grid { border-radius: 4px }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; margin: 1.2rem 0 }
.facts div { border: 1px solid var(--line); border-radius: 8px; padding: .5rem .75rem }
.facts b { display: block; font-size: 1.15rem; overflow-wrap: anywhere }
input[type=range] { width: 100%; accent-color: var(--accent); margin: .6rem 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .92rem }
td, th { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; padding: .8rem; font-size: .85rem }
summary { cursor: pointer; color: var(--accent) }
"""
_SLIDER = """
const grids = JSON.parse(document.getElementById("grids").textContent);
const picture = document.getElementById("grid"), place = document.getElementById("place");
const slider = document.getElementById("slider");
function show() { const [step, source] = grids[slider.value]; picture.src = source; place.textContent = step; }
slider.addEventListener("input", show); show();
"""


def run_report(folder: RunFolder) -> str:
    """The page of a run. Raises DataError for a run that has not learnt anything yet."""
    rows = folder.metrics()
    losses = [row for row in rows if "loss" in row]
    if not losses:
        raise DataError(f"{folder.path} has no losses yet", "train it first")
    config = folder.read_config()
    name = folder.path.resolve().name
    parts = [
        f"<h1>{_text(name)}</h1>",
        f'<p class="soft">{_text(_sentence(config, rows))}</p>',
        _facts(folder, config, rows),
        _grids(folder),
        _curves(name, rows),
        _evaluations(folder),
        _animation(folder.path / "progress.gif"),
        _environment(folder, losses[-1]["step"]),
        f"<h2>Settings</h2><details><summary>all of them, as <code>ditkit train --config</code> takes them</summary>"
        f"<pre>{_text(recipes.dump(config))}</pre></details>",
        f'<p class="soft">Made by ditkit {_text(__version__)} on {time.strftime("%Y-%m-%d")}.</p>',
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(name)} · ditkit</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _sentence(config: RunConfig, rows: Sequence[Mapping[str, Any]]) -> str:
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
    distances = [row["kid"] for row in rows if "kid" in row]
    if distances:
        facts["KID, while it trained"] = f"{distances[-1]:.4f}"
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
    shown = [grids[index] for index in thinned(len(grids), MOST_GRIDS)]
    frames = [[f"step {step:,}", source] for step, path in shown if (source := _picture(path))]
    if not frames:
        return ""
    label, last = frames[-1]
    if len(frames) == 1:
        return f'<h2>Samples</h2><img class="grid" alt="samples" src="{last}"><p class="soft">{label}</p>'
    data = json.dumps(frames).replace("<", "\\u003c")
    return (
        f'<h2>Samples over time</h2><img id="grid" class="grid" alt="samples" src="{last}">'
        f'<input id="slider" type="range" min="0" max="{len(frames) - 1}" value="{len(frames) - 1}" '
        f'aria-label="training step"><p id="place" class="soft">{label}</p>'
        f'<script type="application/json" id="grids">{data}</script><script>{_SLIDER}</script>'
    )


def _picture(path: Path) -> str | None:
    """A PNG as a data URI, made smaller if it is very wide; None for one that cannot be read."""
    try:
        with Image.open(path) as picture:
            shown = picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
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
    metrics = list(dict.fromkeys(key for one in records for key in one["metrics"] if key != "kid_error"))
    heads = ["step", "images", "sampler", "steps", "guidance", "features", *metrics]
    lines = []
    for one in records:
        drawn, features = one.get("drawn", {}), one.get("features", {})
        cells = [one.get("step"), drawn.get("samples"), drawn.get("sampler"), drawn.get("steps")]
        cells += [drawn.get("guidance"), features.get("name"), *(one["metrics"].get(key) for key in metrics)]
        lines.append(_row("td", ["" if cell is None else _short(cell) for cell in cells]))
    return f'<h2>Evaluation</h2><div class="wide"><table>{_row("th", heads)}{"".join(lines)}</table></div>'


def _animation(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    if len(content) > LARGEST_GIF:
        return ""
    return f'<h2>Training, in a few seconds</h2><img alt="progress" src="{_uri("image/gif", content)}">'


def _environment(folder: RunFolder, step: int) -> str:
    facts: dict[str, Any] = {}
    for one in reversed(folder.checkpoint_steps()):
        try:
            state = json.loads((folder.checkpoint(one) / "state.json").read_bytes())
            facts = {"device": state["device"], "processes": state["processes"], **state["versions"]}
            facts |= {"images": state.get("images") or "", "newest checkpoint": f"step {one:,}"}
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
