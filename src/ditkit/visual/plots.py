"""Plots of training: losses of one or more runs, and the learning-rate range test."""

from __future__ import annotations

import io
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ..errors import DataError, DivergedError, UsageError
from ..io.atomic import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's colours, which colour-blind readers can distinguish too; without yellow, which is faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")
# From little noise to much: light to dark, so that the order is seen without the legend.
_QUARTERS = (
    ("loss_q1", "noise 0–25 %", "#F2A65A"),
    ("loss_q2", "noise 25–50 %", "#DD513A"),
    ("loss_q3", "noise 50–75 %", "#932667"),
    ("loss_q4", "noise 75–100 %", "#2B0B57"),
)
_GREY = "#6E7781"
_MOST_POINTS = 20_000  # a line; far more than a page has pixels, and Agg gives up on millions

Rows = Sequence[Mapping[str, Any]]
Limits = tuple[float, float]


class Curve(Protocol):
    """The result of a learning-rate range test: losses at rising rates, and the rates that it advises."""

    @property
    def rates(self) -> Sequence[float]: ...
    @property
    def losses(self) -> Sequence[float]: ...
    @property
    def smoothed(self) -> Sequence[float]: ...
    @property
    def suggestion(self) -> float | None: ...
    @property
    def lowest(self) -> float | None: ...
    @property
    def configured(self) -> float | None: ...


def series(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the rows that have a finite number under `key`, by step; the last row of a step counts."""
    values: dict[float, float] = {}
    for row in rows:
        step, value = row.get("step"), row.get(key)
        if isinstance(step, int | float) and isinstance(value, int | float) and math.isfinite(value):
            values[float(step)] = float(value)
    steps = sorted(values)
    return np.array(steps), np.array([values[step] for step in steps])


def smoothed(values: np.ndarray, decay: float) -> np.ndarray:
    """Exponential moving average, corrected for its start at zero (Kingma & Ba 2015, section 3); decay in [0, 1)."""
    if not 0 <= decay < 1:
        raise UsageError(f"smoothing must be at least 0 and below 1, not {decay}", "0 is no smoothing, 0.98 is usual")
    average, out = 0.0, np.empty(len(values))
    for index, value in enumerate(values):
        average = decay * average + (1 - decay) * float(value)
        out[index] = average / (1 - decay ** (index + 1))
    return out


def plot_losses(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], *, log: bool = False, by_noise: bool = False, smooth: float = 0.98
) -> Figure:
    """Training loss (raw and smoothed), validation loss and learning rate of one or more runs.

    With `by_noise`, four curves for the quarters of the noise range instead: the loss differs between them by far
    more than it falls. `smooth` in [0, 1) is the decay of the moving average. Raises DataError without losses,
    UsageError for a decay outside its range.
    """
    shown = runs_with(runs, [key for key, *_ in _QUARTERS] if by_noise else ["loss", "validation_loss"])
    figure, axes, below = _page(shown)
    limits: list[Limits] = []
    for index, (name, rows) in enumerate(shown.items()):
        if by_noise:
            style = _STYLES[index % len(_STYLES)]
            limits += _draw_quarters(axes, rows, smooth, log, style, name if len(shown) > 1 else "")
        else:
            label = f"{name} · " if len(shown) > 1 else ""
            limits.append(_draw_run(axes, rows, smooth, log, _COLOURS[index % len(_COLOURS)], label))
    axes.set_ylabel("training loss by noise level" if by_noise else "loss")
    axes.locator_params(axis="x", integer=True)
    _limit(axes, limits, log)
    _legend(axes, "upper right")
    if below is not None:
        for index, rows in enumerate(shown.values()):
            colour = _COLOURS[index % len(_COLOURS)] if len(shown) > 1 and not by_noise else _GREY
            below.plot(*series(rows, "lr"), color=colour, linewidth=1.2)
        below.set_ylabel("learning rate", fontsize=8)
        below.set_ylim(bottom=0)
        below.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
        below.yaxis.get_offset_text().set_fontsize(8)
        below.locator_params(axis="y", nbins=3)
    (axes if below is None else below).set_xlabel("step")
    if len(shown) == 1:
        axes.set_title(next(iter(shown)), parse_math=False, loc="left", fontsize=11, fontweight="bold")
    return figure


def plot_lr(curve: Curve) -> Figure:
    """Loss against learning rate; marked are the suggested rate, that of the lowest loss, and the settings' own.

    Raises DivergedError without a finite loss.
    """
    rates, losses = np.asarray(curve.rates, float), np.asarray(curve.losses, float)
    trend = np.asarray(curve.smoothed, float)
    usable = np.isfinite(rates) & (rates > 0)
    if not (usable & np.isfinite(losses)).any():
        raise DivergedError("the range test measured no finite loss, so there is nothing to plot")
    figure = _figure(7.0, 4.2)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.plot(rates[usable], losses[usable], color=_COLOURS[0], alpha=0.3, linewidth=1, label="measured")
    if len(trend) == len(rates):
        axes.plot(rates[usable], trend[usable], color=_COLOURS[0], linewidth=2.2, label="smoothed")
    marks = (
        (curve.lowest, "lowest loss", _COLOURS[1], "--"),
        (curve.suggestion, "half that rate, to begin with", _COLOURS[2], "-"),
        (curve.configured, "the settings' own", _COLOURS[6], ":"),
    )
    for rate, name, colour, style in marks:
        if rate is not None and math.isfinite(rate) and rate > 0:
            axes.axvline(rate, color=colour, linestyle=style, linewidth=1.6, label=f"{name}: {_rate(rate)}")
            closest = int(np.nanargmin(np.abs(np.log(np.where(usable, rates, np.nan)) - math.log(rate))))
            if len(trend) == len(rates) and np.isfinite(trend[closest]):
                axes.plot([rate], [trend[closest]], "o", color=colour, markersize=7, zorder=5)
    finite = trend[np.isfinite(trend)] if np.isfinite(trend).any() else losses[np.isfinite(losses)]
    low, start = float(finite.min()), float(finite[0])
    # Divergence shoots off the page: half of the fall above the start shows that it happens.
    high = min(float(finite.max()), start + 0.5 * (start - low)) if start > low else float(np.percentile(finite, 75))
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    _tidy(axes)
    _legend(axes, "lower left")
    return figure


def save_lr_curve(curve: Curve, path: Path) -> Path:
    """Write the plot of a range test, and beside it its numbers as .json; returns the path of these."""
    numbers = path.with_suffix(".json")
    names = ("rates", "losses", "smoothed", "suggestion", "lowest", "configured")
    values = {name: getattr(curve, name) for name in names}
    save_figure(plot_lr(curve), path)
    write_file(numbers, json.dumps(values, indent=1, allow_nan=False).encode())
    return numbers


def _rate(rate: float) -> str:
    """A rate as people type it: 2.6e-4."""
    return re.sub(r"e([+-])0(\d)", r"e\1\2", f"{rate:.1e}")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all, in the format of its suffix (.png, .pdf, .svg).

    Raises UsageError for another suffix, MachineError for the disk.
    """
    path = Path(path)
    ending = path.suffix.lower().lstrip(".") or "png"
    if ending not in figure.canvas.get_supported_filetypes():
        raise UsageError(f"cannot write a plot as {path.name}", "end the name in .png, .pdf or .svg")
    write_file(path, rendered(figure, ending))


def rendered(figure: Figure, ending: str = "png") -> bytes:
    """The content of a picture file of a figure."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*Glyph .* missing from")  # shown as boxes; no reason to fail
        figure.savefig(data, format=ending, dpi=150)
    return data.getvalue()


def runs_with(runs: Mapping[str, Rows], keys: Sequence[str]) -> dict[str, Rows]:
    """The runs that have a number for any of these keys. Raises DataError when none has."""
    shown = {name: rows for name, rows in runs.items() if any(len(series(rows, key)[0]) for key in keys)}
    if not shown:
        names = ", ".join(runs) or "no run"
        raise DataError(f"there is no loss to plot yet ({names})", "train for some steps first")
    return shown


def check_plots() -> None:
    """Open what a plot is made with, before the work that ends with one. Raises ImportError."""
    _figure(1, 1)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _page(runs: Mapping[str, Rows]) -> tuple[Figure, Axes, Axes | None]:
    """The axes for the losses and, where some learning rate changes, thin ones for it below."""
    rates = [series(rows, "lr")[1] for rows in runs.values()]
    if not any(len(rate) > 1 and rate.max() > 1.01 * rate.min() for rate in rates):
        figure = _figure(7.2, 4.4)
        axes = figure.add_subplot()
        _tidy(axes)
        return figure, axes, None
    figure = _figure(7.2, 5.2)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(6, 1))
    _tidy(axes)
    _tidy(below)
    return figure, axes, below


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#D8DEE4", linewidth=0.6, alpha=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)


def _legend(axes: Axes, where: Literal["upper right", "lower left"]) -> None:
    """A legend of names as they are: matplotlib would make formulas from a '$' and hide a leading '_'."""
    lines = [line for line in axes.get_lines() if not re.fullmatch(r"_child\d+", str(line.get_label()))]
    names = [str(line.get_label()) for line in lines]
    # A fixed place: the search for the best one is slow on long runs, and warns of it.
    legend = axes.legend(lines, ["…"] * len(lines), fontsize=9, loc=where, ncols=1 + (len(lines) > 5))
    legend.get_frame().set(facecolor="white", alpha=0.85, linewidth=0)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def _draw_run(axes: Axes, rows: Rows, smooth: float, log: bool, colour: str, label: str) -> Limits:
    """One run's curves; returns the range of losses to show."""
    steps, losses = series(rows, "loss")
    trend = smoothed(losses, smooth)
    if len(steps):
        some = slice(None, None, -(-len(steps) // _MOST_POINTS))
        axes.plot(steps[some], losses[some], color=colour, alpha=0.22, linewidth=0.7)
        marker = "o" if len(steps) < 2 else None
        axes.plot(steps[some], trend[some], color=colour, linewidth=1.9, marker=marker, label=f"{label}training")
    dots = {"marker": "o", "markersize": 3.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
    darker = "#" + "".join(f"{int(colour[at : at + 2], 16) * 5 // 8:02x}" for at in (1, 3, 5))
    kinds = (("validation_loss", "-", "validation (EMA weights)"), ("validation_loss_raw", "--", "validation (raw)"))
    validation = []
    for key, style, name in kinds:
        x, y = series(rows, key)
        validation.append(y)
        if len(x):
            axes.plot(x, y, style, color=darker, linewidth=1.4, label=label + name, zorder=4, **dots)
    return visible_range(losses, trend, log, np.concatenate(validation))


def _draw_quarters(axes: Axes, rows: Rows, smooth: float, log: bool, style: str, name: str) -> list[Limits]:
    """One run's curves of the quarters of the noise range; returns the ranges of losses to show."""
    limits = []
    for key, label, colour in _QUARTERS:
        steps, losses = series(rows, key)
        if not len(steps):
            continue
        trend = smoothed(losses, smooth)
        some = slice(None, None, -(-len(steps) // _MOST_POINTS))
        if not name:  # of several runs the raw losses would hide the smoothed ones
            axes.plot(steps[some], losses[some], color=colour, alpha=0.15, linewidth=0.6)
        marker = "o" if len(steps) < 2 else None
        label = f"{name} · {label}" if name else label
        axes.plot(steps[some], trend[some], style, color=colour, linewidth=1.9, marker=marker, label=label)
        limits.append(visible_range(losses, trend, log))
    return limits


def visible_range(losses: np.ndarray, trend: np.ndarray, log: bool, others: Any = ()) -> Limits:
    """The range to show: the smoothed end, the validation losses and, unless `log`, no spike of the first steps."""
    if not len(losses):
        return float(min(others)), float(max(others))
    low, high = np.percentile(losses if log else losses[len(losses) // 20 :], (0.5, 99.8 if log else 98.5))
    low = min(low, trend[len(trend) // 2 :].min(), *others)
    return float(low), float(max([high, *np.minimum(others, 1.5 * high)]))


def _limit(axes: Axes, limits: Sequence[tuple[float, float]], log: bool) -> None:
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    if log and high > 0:
        axes.set_yscale("log")
        low = max(low, 1e-4 * high) if low > 0 else 1e-4 * high
        room = (high / low) ** 0.06 if high > low else 1.5
        axes.set_ylim(low / room, high * room)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}" if high / low < 20 else "")
        axes.tick_params(which="minor", labelsize=9)
        axes.grid(True, which="minor", color="#D8DEE4", linewidth=0.4, alpha=0.8)
        return
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(max(low - room, 0) if low >= 0 else low - room, high + room)
