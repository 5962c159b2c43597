"""The figures of an evaluation, for people: what each is called and means, and when two of them differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..io import text

BEYOND_NOISE = 2.0  # standard errors that two figures differ by


@dataclass(frozen=True)
class Figure:
    """What a figure is called, and what it says."""

    title: str
    meaning: str
    share: bool = False  # in [0, 1], written in per cent
    more_is_better: bool = False


FIGURES = {
    "frechet": Figure("{distance}", "0 is best"),
    "kid": Figure("KID ({features})", "0 is best"),
    "precision": Figure("precision", "drawn images that look real", share=True, more_is_better=True),
    "recall": Figure("recall", "real images that are covered", share=True, more_is_better=True),
    "accuracy": Figure("label accuracy", "images of the label that was asked for", share=True, more_is_better=True),
    "inception_score": Figure("Inception Score", "more is better", more_is_better=True),
    "memorised": Figure("memorised", "copies of training images", share=True),
}
NEGATIVE_KID = "a KID below 0 is 0 within its error: the estimate has no bias, so that it falls on both sides of 0"
HEADINGS = {"frechet": "Fréchet", "kid": "KID", "inception_score": "IS"}  # in tables, where not the figure's own name


def error_of(metrics: Mapping[str, float], name: str) -> float | None:
    """The standard error of a figure; None where it is unknown, as in older records."""
    return metrics.get(f"{name}_error")


def written(metrics: Mapping[str, float], name: str) -> str:
    """A figure with its standard error: `0.142 ± 0.004`, `97.8 ± 0.5 %`."""
    return text.plus_minus(metrics[name], error_of(metrics, name), percent=name in FIGURES and FIGURES[name].share)


def best(rows: Sequence[Mapping[str, float]], name: str) -> int | None:
    """The row whose figure is better than that of every other row by more than noise; None if there is none.

    A KID below 0 is 0 within its error, and never the best.
    """
    first = _first(rows, name)
    return None if first is None or rows[first][name] < 0 else first


def _first(rows: Sequence[Mapping[str, float]], name: str) -> int | None:
    """The row that is ahead of every other one by more than noise, whatever its figure says."""
    order = _ranked(rows, name)
    is_ahead = len(order) > 1 and all(differ(rows, name, order[0], row) for row in order[1:])
    return order[0] if is_ahead else None


def differ(rows: Sequence[Mapping[str, float]], name: str, first: int, second: int) -> bool:
    """Whether the figures of two rows differ by more than two standard errors of their difference.

    Where an error is unknown nothing can be told apart.
    """
    errors = [error_of(rows[row], name) for row in (first, second)]
    known = [error for error in errors if error is not None]
    gap = abs(rows[first][name] - rows[second][name])
    return len(known) == 2 and gap > BEYOND_NOISE * math.hypot(*known)


def _ranked(rows: Sequence[Mapping[str, float]], name: str) -> list[int]:
    """The rows that have a figure, the best first."""
    have = [index for index, row in enumerate(rows) if name in row]
    return sorted(have, key=lambda row: rows[row][name], reverse=FIGURES[name].more_is_better)


def notes(rows: Sequence[Mapping[str, float]], remedy: str) -> list[str]:
    """Lines below a table of figures: what ± is, whose best is noise, and what a KID below 0 means."""
    names = [name for name in FIGURES if sum(name in row for row in rows) > 1]
    lines = ["± is one standard error"] if any(error_of(row, name) for row in rows for name in FIGURES) else []
    unsure = [HEADINGS.get(name, name) for name in names if _first(rows, name) is None]
    if unsure:
        lines.append(f"no row is best beyond noise (two standard errors) in {', '.join(unsure)}: {remedy}")
    if any(row.get("kid", 0) < 0 for row in rows):
        lines.append(NEGATIVE_KID)
    return lines
