"""Evaluate(): many images -> metrics, resumable."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..checkpoint.loading import Trained
from ..config import SampleConfig
from ..errors import CheckpointError, UsageError
from ..io import safetensors
from ..io.atomic import make_folder, sha256_of, write_atomically
from ..io.paths import cache_folder
from ..sampling.generate import resolve_labels, sample_batches
from .features import Extractor, Seen
from .judge import FEWEST, Judge
from .reference import OnImage

CHUNK = 128  # images between two looks at the disk


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What an extractor saw in the images that one order draws, kept in parts: what is stopped goes on.

    `identity` is all that the images depend on, so that parts of other images are never taken for these.
    """

    identity: dict[str, Any]
    images: int
    extractor: Extractor

    @property
    def folder(self) -> Path:
        """Where the parts lie until the figures are written."""
        text = json.dumps([self.identity, self.images, self.extractor.fingerprint], sort_keys=True, default=str)
        return cache_folder("evaluations") / hashlib.sha256(text.encode()).hexdigest()[:24]

    def chunks(self) -> list[tuple[int, int]]:
        """(start, end) of every part."""
        return [(start, min(start + CHUNK, self.images)) for start in range(0, self.images, CHUNK)]

    def there(self, start: int) -> Seen | None:
        """A part that has been kept; None if it has not, or is damaged."""
        path = self._path(start)
        try:
            found = safetensors.parse(bytearray(path.read_bytes()), path)
            return Seen(found["features"].numpy(), found["logits"].numpy())
        except (OSError, CheckpointError, KeyError):
            return None

    def see(self, start: int, images: list[np.ndarray]) -> Seen:
        """Look at the images of a part, and keep it."""
        seen = self.extractor.see(images)
        make_folder(self.folder)
        tensors = {"features": seen.features_NF, "logits": seen.logits_NL}
        kept = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in tensors.items()}
        write_atomically(self._path(start), safetensors.pieces(kept))
        return seen

    def clear(self) -> None:
        """Forget the parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, start: int) -> Path:
        return self.folder / f"part-{start:06d}.safetensors"


def joined(parts: list[Seen]) -> Seen:
    """All parts as one."""
    return Seen(
        np.concatenate([part.features_NF for part in parts]), np.concatenate([part.logits_NL for part in parts])
    )


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
    settings = settings or trained.info.config.sample
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
    labels = resolve_labels(trained.info.labels, samples)
    found = Evaluation(metrics=judge.score_seen(seen, labels), about=about)
    if part[0] == 0:
        gallery.clear()
    return found


Drawing = Callable[..., list[np.ndarray]]  # (start, end[, on_image]): images number `start` to `end`


def _drawing(
    trained: Trained, settings: SampleConfig, guide: Trained | None, samples: int, seed: int, batch_size: int | None
) -> Drawing:
    words = resolve_labels(trained.info.labels, samples)

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
        drawn |= {"guide": _file_hash(guide.source), "guide_step": guide.info.step}
    return {
        "step": trained.info.step,
        "ema": {"ema": True, "model": False}.get(trained.info.weights, trained.info.weights),
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
