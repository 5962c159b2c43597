"""What is to be drawn, all checked before torch is loaded; drawing it in one or more processes, and its PNG files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import recipes
from ..autoencoders.files import moved
from ..config import SampleConfig, to_dict
from ..errors import UsageError, unknown
from ..io import text
from ..io.npz import ImageFile
from ..io.progress import LOADING_TORCH, Watch, no_progress, notify
from ..runs import target
from ..runs.label_words import default_words, expand_labels
from ..runs.lookup import find_guide, find_weights, hub_address, model_name, origin_of, unfinished
from ..runs.model_info import ModelInfo, read_model_info
from ..runs.public import public_path
from ..runs.remarks import usable_guidance
from ..runtime.distributed import ProcessGroup

if TYPE_CHECKING:
    import torch

    from ..checkpoint.loading import Trained
    from .generate import Sample

BACKENDS = ("torch", "jax")
GRID = "grid.png"
MAX_IN_GRID = 400  # images
OnCompute = Callable[[dict[str, str]], None]  # `Compute.record`


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
    autoencoder: str | None = None  # where that of the run lies now, or one of the same latents by name
    backend: str = "torch"  # or "jax"
    dtype: str = "auto"  # of matrix products, or float32, bfloat16
    kernels: str = "auto"  # or on, off

    @property
    def file_names(self) -> list[str]:
        """`000-cat.png` …, in safe characters; `000.png` from a model without labels."""
        digits = max(3, len(str(len(self.labels) - 1)))
        endings = [f"-{text.slug(label, 'label')}" if self.info.labels else "" for label in self.labels]
        return [f"{index:0{digits}d}{ending}.png" for index, ending in enumerate(endings)]

    @property
    def label_ids(self) -> list[int] | None:
        """The number of each image's label among those of the model; None if it has none."""
        numbers = {label: number for number, label in enumerate(self.info.labels)}
        return [numbers[label] for label in self.labels] if numbers else None

    @property
    def png_metadata(self) -> dict[str, str]:
        """What every PNG says about its making."""
        settings = self.settings
        return {
            "checkpoint": public_path(self.origin),
            "step": str(self.info.step),
            "sampler": settings.sampler,
            "steps": str(settings.steps),
            "guidance": f"{settings.guidance:g}",
            "guidance_interval": f"{settings.guidance_from:g} {settings.guidance_to:g}",
            "reuse": str(settings.reuse),
            **({"guidance_rescale": f"{settings.guidance_rescale:g}"} if settings.guidance_rescale else {}),
            **({"apg": f"{settings.apg_norm} {settings.apg_momentum:g}"} if settings.apg else {}),
            **({"ema": f"{self.ema:g}"} if self.ema is not None else {}),
            **({"autoguide": public_path(str(self.guide))} if self.guide else {}),
            "software": "ditkit",
        }


def checked_request(
    word: str | None,
    runs: Path,
    *,
    labels: Sequence[str] | None,
    changes: Mapping[str, Any],
    ema: bool = True,
    ema_length: float | None = None,
    guide: str | None = None,
    autoencoder: str | None = None,
    on_damage: Callable[[Path], None] = lambda _path: None,
    progress: Watch = no_progress,
) -> SampleRequest:
    """A request to draw with the model that a word stands for, with all of it checked against the model.

    Args:
        word: as `find_weights` takes it; None for the newest run.
        runs: the folder of runs.
        labels: words that name those of the images (see `runs.label_words`); one of each if None.
        changes: {setting: value} of what is not as the model was trained with, as words or numbers.
        ema: the averaged weights instead of the raw ones.
        ema_length: of an average that is made of the run's snapshots.
        guide: the word for a worse model, for autoguidance.
        autoencoder: where that of the run lies now, or one of the same latents by name.
        on_damage: called with each checkpoint that is passed over, because it is damaged.
        progress: shown what is being done.

    Raises:
        UsageError: for settings, labels and a guide that do not fit the model.
        CheckpointError: for weights that are missing or damaged.
    """
    word = hub_address(word, runs) or word
    weights = find_weights(word, runs, ema=ema, on_damage=on_damage)
    if ema_length is not None:
        weights = averaged(weights, ema_length, progress)
    info = read_model_info(weights)
    trees = [target.nested(key, value) for key, value in changes.items()]
    config = recipes.build(to_dict(info.config), {"train": {"accumulate": 1}}, *trees)
    target.check_sampler(config)
    if autoencoder is not None:
        moved(config.autoencoder, autoencoder)  # raises
    scale = config.sample.guidance
    guided_by = find_guide(guide, weights, info, runs, scale=scale, ema=ema) if guide else None
    drawn, remark = usable_guidance(config, len(info.labels), guide=guided_by is not None)
    request = SampleRequest(
        weights=weights,
        info=info,
        name=f"{model_name(weights, word)}-{info.step}",
        origin=origin_of(word, weights),
        guide=guided_by,
        labels=expand_labels(labels or default_words(info.labels), info.labels),
        seed=config.seed,
        batch_size=config.train.batch_size if "train.batch_size" in changes else None,
        settings=drawn,
        ema=ema_length,
        autoencoder=autoencoder,
    )
    if remark:
        notify(remark)
    return request


def averaged(weights: Path, length: float, progress: Watch) -> Path:
    """The weights of a run's average of another length (see `checkpoint.posthoc_ema`)."""
    with progress(LOADING_TORCH):
        from ..checkpoint.posthoc_ema import average
    return average(weights, length)


def on_backend(request: SampleRequest, backend: str) -> SampleRequest:
    """The same request for `torch` or `jax`. Raises UsageError for another word, and for what JAX does not draw."""
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    if backend == "jax":
        from ..jax.limits import check_installed, check_sampling

        if request.guide is not None:
            raise UsageError("the JAX backend knows no autoguidance", "use --backend torch")
        if request.dtype == "bfloat16" or request.kernels == "on":
            raise UsageError("the JAX backend computes in float32, without kernels", "use --backend torch")
        check_sampling(replace(request.info.config, sample=request.settings))
        check_installed()
    return replace(request, backend=backend)


def draw_to_folder(
    request: SampleRequest,
    folder: Path,
    device: str = "auto",
    *,
    npz: Path | None = None,
    group: ProcessGroup | None = None,
    progress: Watch = no_progress,
) -> list[dict[str, Any]]:
    """Write every image of a request as soon as it is drawn, then a grid; returns path, label and seed of each.

    Of several processes the main one writes, and returns them. `npz` is a file for all images (see `io.npz`); for the
    other arguments see `draw`.
    """
    group = group or ProcessGroup()
    in_grid: list[Sample] = []
    records: list[dict[str, Any]] = []
    names, metadata = request.file_names, request.png_metadata
    if group.is_main:
        from ..visual.grid import check_pictures

        check_pictures(request.labels)
    with ImageFile(npz, len(names), request.label_ids) if npz and group.is_main else nullcontext() as file:
        for image in draw(request, device, group=group, progress=progress, on_compute=metadata.update):
            if group.is_main:
                records.append(save_image(image, folder / names[len(records)], metadata))
                in_grid += [image] if len(in_grid) < MAX_IN_GRID else []
            if file is not None:
                file.add(image.image[None])
    group.run_together(lambda: _save_grid(in_grid, folder / GRID, request, metadata) if group.is_main else None)
    return records


def draw(
    request: SampleRequest,
    device: str,
    *,
    group: ProcessGroup | None = None,
    progress: Watch = no_progress,
    on_compute: OnCompute = lambda _record: None,
) -> Iterator[Sample]:
    """The images of a request, a batch at a time, so that memory stays bounded and a stop loses little.

    Args:
        device: auto, cpu, cuda, cuda:1, mps …
        group: processes that were launched together draw a batch each and exchange them: each gets all images, in their
            order.
        progress: shown how far the drawing is.
        on_compute: called once with the dtype and kernels that draw, as the images are to say it.

    Raises DitkitError for what is wrong with the weights or the device.
    """
    if remark := unfinished(request.weights, request.info):
        notify(remark)
    group = group or ProcessGroup()
    if request.backend == "jax":
        yield from _draw_in_jax(request, device, group, progress)
        return
    with progress(LOADING_TORCH):
        from ..runtime.device import find_device
        from .batch_size import default_batch_size
        from .generate import sample_batches

        place = find_device(device)
        trained, guide = group.run_together(lambda: load_models(request, place))
    on_compute(trained.compute.record)
    count = len(request.labels)
    batch_size = request.batch_size or group.broadcast(
        min(default_batch_size(trained.network, request.info.config.shape, place), math.ceil(count / group.size))
    )
    with progress("drawing") as show:
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


def load_models(request: SampleRequest, device: torch.device) -> tuple[Trained, Trained | None]:
    """The model of a request, and the worse one that guides it if there is one."""
    from ..checkpoint.loading import load_weights

    def loaded(path: Path, info: ModelInfo) -> Trained:
        how = {"dtype": request.dtype, "kernels": request.kernels, "autoencoder": request.autoencoder}
        return load_weights(path, info, device=device, **how)

    guide = loaded(request.guide, read_model_info(request.guide)) if request.guide else None
    return loaded(request.weights, request.info), guide


def _draw_in_jax(request: SampleRequest, device: str, group: ProcessGroup, progress: Watch) -> Iterator[Sample]:
    if group.size > 1:
        raise UsageError("the JAX backend draws in one process", "start it without a launcher, or use --backend torch")
    with progress(LOADING_TORCH):
        from ..jax.files import load
        from ..jax.sampling import sample_batches

        trained = load(request.weights, device=device)
    batches = sample_batches(
        trained, request.labels, settings=request.settings, seed=request.seed, batch_size=request.batch_size
    )
    with progress("drawing") as show:
        for number, image in enumerate(chain.from_iterable(batches), 1):
            show(number, len(request.labels))
            yield image


def save_image(image: Sample, path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Write an image as a PNG that says its label, its seed and `metadata`; returns path, label and seed."""
    image.save(path, metadata)
    return {"path": str(path), "label": image.label, "seed": image.seed}


def _save_grid(images: Sequence[Sample], path: Path, request: SampleRequest, metadata: Mapping[str, str]) -> None:
    from ..visual.grid import columns, grid, save_png

    count, labels = len(request.labels), request.labels[:MAX_IN_GRID]
    title = f"{request.name}: the first {len(images)} of {count}" if len(images) < count else None
    pixels, captions = [image.image for image in images], [image.caption for image in images]
    picture = grid(pixels, columns(labels), captions=captions, title=title)
    save_png(picture, path, {"labels": " ".join(labels), "seed": str(request.seed), **metadata})
