"""Judging a model by many of the images that it draws; the figures come with all that they depend on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..checkpoint import Trained
from ..config import SampleConfig
from ..durable import sha256_of
from ..errors import UsageError
from ..sampling import sample_batches, words_of
from .gallery import Gallery, joined
from .judge import FEWEST, Judge
from .reference import OnImage

ENOUGH = 10_000  # images; the Fréchet distance of fewer is too large, the more so the fewer
TIMED = 16  # images that are drawn to see how long all will take


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics by name (see `Judge.score_seen`), and what they depend on, as plain data."""

    metrics: dict[str, float]
    about: dict[str, Any]

    @property
    def record(self) -> dict[str, Any]:
        """One entry of evaluation.json."""
        return {**self.about, "metrics": self.metrics}


def evaluate(
    trained: Trained,
    judge: Judge,
    *,
    samples: int = ENOUGH,
    seed: int = 0,
    settings: SampleConfig | None = None,
    guide: Trained | None = None,
    batch_size: int | None = None,
    on_image: OnImage = lambda _done, _of: None,
    on_estimate: Callable[[float], None] = lambda _seconds: None,
    part: tuple[int, int] = (0, 1),
    collect: Callable[[Any], list[Any]] = lambda value: [value],
) -> Evaluation:
    """Draws `samples` images, going round the labels, the i-th with seed `seed + i`, and scores them.

    `settings` say how (the card's if None), and `guide` is that of autoguidance. What has been drawn is kept in the
    cache until all is there: stopped at any moment, the same call goes on. `on_estimate` hears how many seconds the
    drawing will take. Of several processes each draws the chunks that are its `part` (k, n), and `collect` gathers a
    value of each: the same figures whatever their number. Raises UsageError for fewer than 10 samples.
    """
    if samples < FEWEST:
        raise UsageError(f"{samples} images say nothing", f"draw {FEWEST} or more, {ENOUGH:,} for figures to publish")
    settings = settings or trained.card.config.sample
    about = _about(trained, judge, settings, guide, samples=samples, seed=seed)
    gallery = Gallery(identity=about["drawn"], images=samples, extractor=judge.extractor)
    draw = _drawing(trained, settings, guide, samples, seed, batch_size)
    chunks = gallery.chunks()
    there = {start: seen for start, _ in chunks if (seen := gallery.there(start))}
    left = sum(end - start for start, end in chunks if start not in there)
    if left > 2 * TIMED:
        on_estimate(_seconds(draw) * left / part[1])
    on_image(samples - left, samples)
    for first in range(0, len(chunks), part[1]):
        mine = first + part[0]
        seen = None
        if mine < len(chunks):
            start, end = chunks[mine]
            seen = there.get(start) or gallery.see(start, draw(start, end, on_image))
        there |= {chunks[first + rank][0]: one for rank, one in enumerate(collect(seen)) if first + rank < len(chunks)}
        on_image(chunks[min(first + part[1], len(chunks)) - 1][1], samples)
    seen = joined([there[start] for start, _ in chunks])
    labels = words_of(trained.card.labels, samples)
    found = Evaluation(metrics=judge.score_seen(seen, labels), about=about)
    if part[0] == 0:
        gallery.clear()
    return found


Drawing = Callable[..., list[np.ndarray]]  # (start, end[, on_image]): images number `start` to `end`


def _drawing(
    trained: Trained, settings: SampleConfig, guide: Trained | None, samples: int, seed: int, batch_size: int | None
) -> Drawing:
    words = words_of(trained.card.labels, samples)

    def draw(start: int, end: int, on_image: OnImage = lambda _done, _of: None) -> list[np.ndarray]:
        def batches() -> Iterator[list[np.ndarray]]:
            asked = [word or "any" for word in words[start:end]]
            done = start
            for batch in sample_batches(
                trained,
                asked,
                settings=settings,
                seed=seed + start,
                guide=guide,
                batch_size=batch_size,
            ):
                done += len(batch)
                on_image(done, samples)
                yield [one.image for one in batch]

        return list(chain.from_iterable(batches()))

    return draw


def _seconds(draw: Drawing) -> float:
    """Of drawing an image, when several are drawn at once."""
    draw(0, 1)  # what happens once only
    started = time.perf_counter()
    draw(0, TIMED)
    return (time.perf_counter() - started) / TIMED


def _about(
    trained: Trained, judge: Judge, settings: SampleConfig, guide: Trained | None, *, samples: int, seed: int
) -> dict[str, Any]:
    how = {key: value for key, value in asdict(settings).items() if key != "clamp" or value}
    drawn = {"weights": _file_hash(trained.source), "samples": samples, "first_seed": seed, **how}
    if guide is not None:
        drawn |= {"guide": _file_hash(guide.source), "guide_step": guide.card.step}
    return {
        "step": trained.card.step,
        "ema": {"ema": True, "model": False}.get(trained.card.weights, trained.card.weights),
        "drawn": drawn,
        "features": {
            "name": judge.extractor.name,
            "distance": judge.extractor.distance,
            "weights": judge.extractor.fingerprint,
        },
        "reference": {"hash": judge.reference.fingerprint, "images": judge.reference.statistics.images},
        "device": next(trained.network.parameters()).device.type,
        "software": f"ditkit {__version__}, torch {torch.__version__}",
    }


def _file_hash(path: Path) -> str:
    return sha256_of(path)[:16]
