"""Options and the model's own description make a checked SampleRequest; drawing it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from .. import recipes
from ..config import SampleConfig, to_dict
from ..errors import UsageError, unknown
from ..io import text as io_text
from ..runs import target
from ..runs.lookup import find_guide, find_weights, model_name, origin_of
from ..runs.model_info import ModelInfo, read_model_info
from ..runtime.distributed import ProcessGroup
from . import console, datasets, outputs, parsing
from .opt import changes
from .options import Device, Model, SampleSettings

if TYPE_CHECKING:
    from ..sampling.generate import Sample


DEFAULT_IMAGES = 16  # without --labels, of a model that has none, or more than:
MAX_LABELS = 100
BACKENDS = ("torch", "jax")


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What is to be drawn, all checked, before torch is loaded."""

    weights: Path
    info: ModelInfo
    name: str  # of the folder of images
    origin: str  # of the weights, as the images name it
    labels: list[str]  # "any" for each image of an unconditional model
    seed: int
    batch_size: int | None  # None: what fits
    settings: SampleConfig
    ema: float | None = None  # length of the moving average, if --ema gave one
    guide: Path | None = None  # weights that stand for the null label
    autoencoder: Path | None = None  # where that of the run lies now
    backend: str = "torch"  # or "jax"

    @property
    def file_names(self) -> list[str]:
        """`000-cat.png` …, in safe characters; `000.png` from a model without labels."""
        digits = max(3, len(str(len(self.labels) - 1)))
        endings = [f"-{io_text.slug(label, 'label')}" if self.info.labels else "" for label in self.labels]
        return [f"{index:0{digits}d}{ending}.png" for index, ending in enumerate(endings)]

    @property
    def png_metadata(self) -> dict[str, str]:
        """What every PNG says about its making."""
        settings = self.settings
        return {
            "checkpoint": self.origin,
            "step": str(self.info.step),
            "sampler": settings.sampler,
            "steps": str(settings.steps),
            "guidance": f"{settings.guidance:g}",
            "guidance_interval": f"{settings.guidance_from:g} {settings.guidance_to:g}",
            "reuse": str(settings.reuse),
            **({"ema": f"{self.ema:g}"} if self.ema is not None else {}),
            **({"autoguide": str(self.guide)} if self.guide else {}),
            "software": "ditkit",
        }


def resolve_request(
    settings: SampleSettings, model: Model, device: Device, runs: Path, *, default: str | None = None
) -> SampleRequest:
    """What the options of a command and the weights' own description ask for.

    Args:
        runs: the folder of runs.
        default: the model to take if none is named; the newest run if None.

    Raises:
        UsageError: for every mistake in the options.
        CheckpointError: for weights that are missing or damaged.
    """
    word, ema = model.model or default, not model.no_ema
    weights = find_weights(word, runs, ema=ema, on_damage=warn_of_damage)
    if model.ema is not None:
        weights = averaged(weights, model.ema, ema=ema)
    info = read_model_info(weights)
    changed = changes(settings, device)
    trees = [target.nested(key, value) for key, value in changed.items()]
    config = recipes.build(to_dict(info.config), {"train": {"accumulate": 1}}, *trees)
    target.check_sampler(config)
    guide = None
    if settings.autoguide:
        guide = find_guide(settings.autoguide, weights, info, runs, scale=config.sample.guidance, ema=ema)
    return SampleRequest(
        weights=weights,
        info=info,
        name=f"{model_name(weights, word)}-{info.step}",
        origin=origin_of(word, weights),
        labels=parsing.expand_labels(settings.labels or _default_labels(info), info.labels),
        seed=config.seed,
        batch_size=config.train.batch_size if "train.batch_size" in changed else None,
        settings=config.sample,
        ema=float(model.ema) if model.ema is not None else None,
        guide=guide,
        autoencoder=outputs.autoencoder_folder(model.autoencoder),
    )


def _default_labels(info: ModelInfo) -> list[str]:
    """One image of each label, as long as those are not too many."""
    if not info.labels:
        return [f"{parsing.ANY}*{DEFAULT_IMAGES}"]
    return list(info.labels if len(info.labels) <= MAX_LABELS else info.labels[:DEFAULT_IMAGES])


def averaged(weights: Path, text: str, *, ema: bool) -> Path:
    """The weights of a run's average of another length. Raises UsageError for a word that is no length."""
    length = parsing.ema_length(text)
    if not ema:
        raise UsageError("--ema and --no-ema ask for different weights", "leave one of them out")
    with console.loading_torch():
        from ..checkpoint.posthoc_ema import average
    return average(weights, length)


def warn_of_damage(path: Path) -> None:
    """Say that a checkpoint is passed over."""
    console.say(f"warning: {path} is damaged; looking for the checkpoint before it")


def on_backend(request: SampleRequest, backend: str) -> SampleRequest:
    """The same request for `torch` or `jax`. Raises UsageError for another word, and for what JAX does not draw."""
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    if backend == "jax":
        from ..jax.limits import check_installed, check_sampling

        if request.guide is not None:
            raise UsageError("the JAX backend knows no autoguidance", "use --backend torch")
        check_sampling(replace(request.info.config, sample=request.settings))
        check_installed()
    return replace(request, backend=backend)


def draw(
    request: SampleRequest,
    device: str,
    *,
    quiet: bool,
    group: ProcessGroup | None = None,
) -> Iterator[Sample]:
    """The images of a request, a batch at a time, so that memory stays bounded and a stop loses little.

    Processes that were launched together draw a batch each and exchange them: each gets all images, in their order.
    """
    group = group or ProcessGroup()
    if request.backend == "jax":
        yield from _draw_in_jax(request, device, quiet=quiet, group=group)
        return
    with console.loading_torch(quiet=quiet):
        from ..checkpoint.loading import load, load_weights
        from ..runtime.device import find_device
        from ..sampling.generate import default_batch_size, sample_batches

        place, autoencoder = find_device(device), request.autoencoder
        with datasets.watching(quiet=quiet):
            trained = group.run_together(
                lambda: load_weights(request.weights, request.info, device=place, autoencoder=autoencoder)
            )
            guide = load(request.guide, device=place, autoencoder=autoencoder) if request.guide else None
    count, shape = len(request.labels), request.info.config.shape
    batch_size = request.batch_size or group.broadcast(
        min(default_batch_size(trained.network, shape, place), math.ceil(count / group.size))
    )
    with console.bar("drawing", quiet=quiet) as show:
        batches = sample_batches(
            trained,
            [label if request.info.labels else None for label in request.labels],
            settings=request.settings,
            seed=request.seed,
            guide=guide,
            batch_size=batch_size,
            on_step=lambda step, steps, *_: show((step + 1) / steps * count, count),
            part=(group.rank, group.size),
        )
        for _ in range(math.ceil(math.ceil(count / batch_size) / group.size)):
            for batch in group.all_gather(next(batches, [])):
                yield from batch


def _draw_in_jax(request: SampleRequest, device: str, *, quiet: bool, group: ProcessGroup) -> Iterator[Sample]:
    if group.size > 1:
        raise UsageError("the JAX backend draws in one process", "start it without a launcher, or use --backend torch")
    with console.loading_torch(quiet=quiet):
        from ..jax.files import load
        from ..jax.sampling import sample_batches

        trained = load(request.weights, device=device)
    batches = sample_batches(
        trained, request.labels, settings=request.settings, seed=request.seed, batch_size=request.batch_size
    )
    with console.bar("drawing", quiet=quiet) as show:
        for number, image in enumerate(chain.from_iterable(batches), 1):
            show(number, len(request.labels))
            yield image
