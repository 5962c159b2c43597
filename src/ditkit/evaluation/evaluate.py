"""Many drawn images to metrics; an evaluation that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
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
from ..io.npz import ImageFile
from ..io.paths import cache_folder
from ..kernels.choice import EAGER
from ..runs.remarks import usable_guidance
from ..sampling.generate import sample_batches
from .features import Extractor, Features
from .judge import MIN_SAMPLES, Judge
from .label_plan import DATA, LabelPlan, plan_labels
from .reference import OnImage
from .report import DEFAULT_SAMPLES

CHUNK = 128  # images; what is lost at most when an evaluation is stopped
# Settings of sampling that came later: figures of before are those of their absence.
_ADDED = ("clamp", "guidance_rescale", "apg", "apg_norm", "apg_momentum")
_TIMED = 16  # images that are drawn to estimate how long all will take


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """The features of drawn images, on disk in chunks until the metrics are computed.

    `identity` is all that the images depend on: other images never find these chunks.
    """

    identity: dict[str, Any]
    images: int
    extractor: Extractor
    keeps_images: bool = False  # beside their features

    @property
    def folder(self) -> Path:
        """Where the chunks are."""
        text = json.dumps([self.identity, self.images, self.extractor.fingerprint], sort_keys=True, default=str)
        return cache_folder("evaluations") / hashlib.sha256(text.encode()).hexdigest()[:24]

    def chunks(self) -> list[tuple[int, int]]:
        """(start, end) of every chunk."""
        return [(start, min(start + CHUNK, self.images)) for start in range(0, self.images, CHUNK)]

    def load(self, start: int) -> Features | None:
        """A chunk from disk; None if it is missing or damaged."""
        path = self._path(start)
        try:
            tensors = safetensors.parse(bytearray(path.read_bytes()), path)
            if self.keeps_images and "images" not in tensors:
                return None
            return Features(tensors["features"].numpy(), tensors["logits"].numpy())
        except (OSError, CheckpointError, KeyError):
            return None

    def load_images(self, start: int) -> np.ndarray:
        """The images of a chunk that `load` finds, uint8 (N, H, W, C)."""
        path = self._path(start)
        return safetensors.parse(bytearray(path.read_bytes()), path)["images"].numpy()

    def extract(self, start: int, images: list[np.ndarray]) -> Features:
        """Compute the features of a chunk's images and write them."""
        features = self.extractor.extract(images)
        make_folder(self.folder)
        arrays = {"features": features.features_NF, "logits": features.logits_NL}
        arrays |= {"images": np.stack(images)} if self.keeps_images else {}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        write_atomically(self._path(start), safetensors.pieces(tensors))
        return features

    def clear(self) -> None:
        """Remove all chunks."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, start: int) -> Path:
        return self.folder / f"part-{start:06d}.safetensors"


def joined(parts: list[Features]) -> Features:
    """All chunks as one."""
    return Features(
        np.concatenate([part.features_NF for part in parts]), np.concatenate([part.logits_NL for part in parts])
    )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics by name (see `Judge.score_seen`), and what they depend on, as plain data."""

    metrics: dict[str, float]
    about: dict[str, Any]
    labels: Sequence[str | None] = ()  # of the drawn images
    drawn: FeatureCache | None = None  # what was seen of them

    def forget(self) -> None:
        """Remove what is cached of the drawn images: when the figures are written, nothing has to be drawn again."""
        if self.drawn:
            self.drawn.clear()

    @property
    def record(self) -> dict[str, Any]:
        """One entry of evaluation.json."""
        return {**self.about, "metrics": self.metrics}


def evaluate(
    trained: Trained,
    judge: Judge,
    *,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    settings: SampleConfig | None = None,
    guide: Trained | None = None,
    batch_size: int | None = None,
    labels_as: str = DATA,
    npz: Path | None = None,
    keep: bool = False,
    on_image: OnImage = lambda _done, _of: None,
    on_estimate: Callable[[float], None] = lambda _seconds: None,
    part: tuple[int, int] = (0, 1),
    collect: Callable[[Any], list[Any]] = lambda value: [value],
) -> Evaluation:
    """Draw images, each label as often as the real images have it, and score them.

    Features are cached until all are drawn, or `Evaluation.forget` with `keep`: the same call goes on after a stop.

    Args:
        trained: the model to draw with.
        judge: what the images are compared with, by which features.
        samples: number of images, 10 or more; 10,000 or more for metrics to publish.
        seed: image i is drawn with seed `seed + i`.
        settings: of sampling; those of the model if None.
        guide: a worse model, for autoguidance (see `sampling.guidance`).
        batch_size: images drawn at once; chosen if None. It does not change the images.
        labels_as: "data", or "even" for the labels in turn (see `label_plan.plan_labels`).
        npz: a file for all images (see `io.npz`). Where it was not asked for before a stop, they are drawn again.
        on_image: called with the number of images drawn so far, and of all.
        on_estimate: called once with the seconds that drawing will take.
        part: (k, n): this process is number k of n, and draws every n-th chunk. The metrics do not depend on n.
        collect: gathers a value from each of the n processes.

    Raises UsageError for fewer than 10 samples, and for another word than "data" or "even".
    """
    if samples < MIN_SAMPLES:
        raise UsageError(
            f"{samples} images say nothing", f"draw {MIN_SAMPLES} or more, {DEFAULT_SAMPLES:,} for figures to publish"
        )
    settings, _ = usable_guidance(trained.info.config, len(trained.info.labels), settings, guide=guide is not None)
    plan = plan_labels(trained.info.labels, judge.reference.labels, samples, labels_as)
    about = _about(trained, judge, settings, guide, plan, seed=seed)
    computed = [model.compute.record for model in (trained, guide) if model is not None]
    identity = {**about["drawn"], **({} if all(each == EAGER.record for each in computed) else {"computed": computed})}
    cache = FeatureCache(identity=identity, images=samples, extractor=judge.extractor, keeps_images=npz is not None)
    draw = partial(_draw, trained, plan.labels, settings=settings, guide=guide, seed=seed, batch_size=batch_size)
    done = {start: features for start, _ in cache.chunks() if (features := cache.load(start))}
    missing = sum(end - start for start, end in cache.chunks() if start not in done)
    if missing > 2 * _TIMED:
        on_estimate(_seconds_per_image(draw) * missing / part[1])
    on_image(samples - missing, samples)
    with _file(npz if part[0] == 0 else None, samples, plan.label_ids(trained.info.labels)) as file:
        _draw_missing(cache, done, draw, on_image, file, part, collect)
    metrics = judge.score_seen(joined([done[start] for start, _ in cache.chunks()]), plan.labels)
    if part[0] == 0 and not keep:
        cache.clear()
    return Evaluation(metrics=metrics, about=about, labels=plan.labels, drawn=cache)


def _file(npz: Path | None, samples: int, label_ids: Any) -> AbstractContextManager[ImageFile | None]:
    return ImageFile(npz, samples, label_ids) if npz else nullcontext()


def _draw_missing(
    cache: FeatureCache,
    done: dict[int, Features],
    draw: Callable[..., list[np.ndarray]],
    on_image: OnImage,
    file: ImageFile | None,
    part: tuple[int, int],
    collect: Callable[[Any], list[Any]],
) -> None:
    """Draw the chunks that are not `done`, and add their features to it; for the arguments see `evaluate`."""
    chunks, (rank, processes) = cache.chunks(), part
    # All processes take part in every round, also those for which no chunk is left: `collect` waits for all of them.
    for first in range(0, len(chunks), processes):
        round_chunks = chunks[first : first + processes]
        features = images = None
        if rank < len(round_chunks):
            start, end = round_chunks[rank]
            features = done.get(start) or cache.extract(start, draw(start, end, on_image=on_image))
            images = cache.load_images(start) if cache.keeps_images else None
        for (start, _), (seen, drawn) in zip(round_chunks, collect((features, images)), strict=False):
            done[start] = seen
            if file is not None:
                file.add(drawn)
        on_image(round_chunks[-1][1], cache.images)


def _draw(
    trained: Trained,
    labels: Sequence[str | None],
    start: int,
    end: int,
    *,
    settings: SampleConfig,
    guide: Trained | None,
    seed: int,
    batch_size: int | None,
    on_image: OnImage = lambda _done, _of: None,
) -> list[np.ndarray]:
    """The images number `start` to `end`, uint8 (H, W, C)."""
    images: list[np.ndarray] = []
    for batch in sample_batches(
        trained,
        labels[start:end],
        settings=settings,
        seed=seed + start,
        guide=guide,
        batch_size=batch_size,
    ):
        images += [sample.image for sample in batch]
        on_image(start + len(images), len(labels))
    return images


def _seconds_per_image(draw: Callable[[int, int], list[np.ndarray]]) -> float:
    """How long one image takes when several are drawn at once."""
    draw(0, 1)  # what happens once only
    started = time.perf_counter()
    draw(0, _TIMED)
    return (time.perf_counter() - started) / _TIMED


def _about(
    trained: Trained, judge: Judge, settings: SampleConfig, guide: Trained | None, plan: LabelPlan, *, seed: int
) -> dict[str, Any]:
    """All that the metrics depend on."""
    sampling = {key: value for key, value in asdict(settings).items() if key not in _ADDED or value}
    drawn = {"weights": _file_hash(trained), "samples": len(plan.labels), "first_seed": seed, **sampling}
    if guide is not None:
        drawn |= {"guide": _file_hash(guide), "guide_step": guide.info.step}
    drawn |= {"labels_as": plan.labels_as, "labels": _hash(json.dumps(plan.labels))}
    return {
        "step": trained.info.step,
        "ema": {"ema": True, "model": False}.get(trained.info.weights, trained.info.weights),
        "drawn": drawn,
        "labels": plan.said,
        "features": {
            "name": judge.extractor.name,
            "distance": judge.extractor.distance,
            "weights": judge.extractor.fingerprint,
        },
        "reference": _about_reference(judge, len(plan.labels)),
        **trained.compute.record,
        "device": next(trained.network.parameters()).device.type,
        "software": f"ditkit {__version__}, torch {torch.__version__}",
    }


def _about_reference(judge: Judge, samples: int) -> dict[str, Any]:
    """The real images: how many the Fréchet distance, the other metrics, and `frechet_real` are of."""
    real = judge.reference
    numbers = {"images": real.statistics.images, "features": len(real.features_NF), "part": judge.real_part(samples)}
    return {"hash": real.fingerprint, **numbers}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _file_hash(trained: Trained) -> str:
    return (trained.source_sum or sha256_of(trained.source))[:16]
