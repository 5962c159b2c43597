"""Losses of one or more runs on a terminal, in braille dots."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .plots import runs_with, series, smoothed, visible_range

_LETTERS = string.ascii_uppercase


def terminal_plot(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], width: int, height: int, *, log: bool = False, smooth: float = 0.98
) -> str:
    """The smoothed training losses (validation losses of runs without) in `height` lines of at most `width` characters.

    Curves of several runs carry letters, which the legend explains. Raises DataError without losses.
    """
    width, height = max(width, 24), max(height, 6)
    curves, limits = {}, []
    for name, rows in runs_with(runs, ["loss", "validation_loss"]).items():
        steps, losses = series(rows, "loss" if len(series(rows, "loss")[0]) else "validation_loss")
        curves[name] = steps, smoothed(losses, smooth)
        limits.append((float(curves[name][1].min()), visible_range(losses, curves[name][1], log)[1]))
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    log = log and low > 0
    scale = np.log10 if log else np.asarray
    bottom, top = float(scale(low)), float(scale(high))
    if top <= bottom:
        bottom, top = bottom - 0.5, top + 0.5
    labels = [f"{10**value if log else value:.3g}" for value in (top, (top + bottom) / 2, bottom)]
    legend = _legend(curves, width, max(1, (height - 4) // 2))
    gutter = max(len(label) for label in labels)
    cells = np.full((height - 2 - len(legend), width - gutter - 2), 0x2800)
    first = min(steps[0] for steps, _ in curves.values())
    last = max(steps[-1] for steps, _ in curves.values())
    letters: dict[tuple[int, int], str] = {}
    for index, (steps, losses) in enumerate(curves.values()):
        across = (steps - first) / max(last - first, 1) * (2 * cells.shape[1] - 1)
        down = (top - scale(losses)) / (top - bottom) * (4 * cells.shape[0] - 1)
        path = _draw_braille(cells, across, down)
        for part in range(3 if len(curves) > 1 and path else 0):
            cell = path[int(len(path) * (index + 0.5 + part * len(curves)) / (3 * len(curves)))]
            letters[cell] = _LETTERS[index % 26]
    lines = []
    rows_with_labels = dict(zip((0, (len(cells) - 1) // 2, len(cells) - 1), labels, strict=True))
    for row, line in enumerate(cells):
        marks = "".join(letters.get((row, column), chr(code)) for column, code in enumerate(line))
        lines.append(f"{rows_with_labels.get(row, ''):>{gutter}} ┤{marks}".rstrip("\u2800"))
    lines.append(f"{'':{gutter}} └{'─' * cells.shape[1]}")
    start, end = f"step {first:.0f}", f"{last:.0f}"
    lines.append(f"{'':{gutter + 2}}{start}{end:>{cells.shape[1] - len(start)}}")
    return "\n".join(lines + legend)


def _draw_braille(cells: np.ndarray, across: np.ndarray, down: np.ndarray) -> list[tuple[int, int]]:
    """Set the dots of a curve, given in dots from the top left; returns its cells from left to right."""
    bits = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
    columns = np.arange(math.ceil(across[0]), math.floor(across[-1]) + 1)
    heights = np.interp(columns, across, down)
    path: list[tuple[int, int]] = []
    before = heights[0] if len(heights) else 0.0
    for column, now in zip(columns.tolist(), heights.tolist(), strict=True):
        start, stop = sorted((round(before), round(now)))
        for dot in range(max(start + (start < stop and before < now), 0), min(stop, 4 * len(cells) - 1) + 1):
            cells[dot // 4, column // 2] |= bits[dot % 4][column % 2]
        if 0 <= round(now) < 4 * len(cells) and (not path or path[-1][1] != column // 2):
            path.append((round(now) // 4, column // 2))
        before = now
    return path


def _legend(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], width: int, most: int) -> list[str]:
    """One line per run with its last loss, at most `most` lines."""
    lines = []
    for index, (name, (_, losses)) in enumerate(curves.items()):
        mark = f"{_LETTERS[index % 26]} " if len(curves) > 1 else ""
        room = width - len(mark) - 12
        name = " ".join(name.split())
        lines.append(f"{mark}{name if len(name) <= room else name[: room - 1] + '…'}  {losses[-1]:.4g}")
    return lines if len(lines) <= most else [*lines[: most - 1], f"… and {len(lines) - most + 1} more"]
