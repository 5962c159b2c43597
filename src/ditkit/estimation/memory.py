"""Memory by part, disk, parts that fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch

from ..autoencoders.files import PIXEL
from ..config import RunConfig, TrainConfig
from ..data.resident import MOST_CACHE_BYTES
from ..models import size as models_size
from ..runtime import memory
from ..runtime.device import free_bytes
from ..training.step import micro_batches_for
from .activations import activation_bytes, sampling_bytes

_FLOAT = 4  # bytes
_AHEAD = 3  # batches at once: that of the step, and two that are prepared
_ROWS = 12  # classes in a sample grid, at most
_METRICS_ROW, _TIMING_ROW = 160, 90  # bytes, about
_PIXEL_BYTES = 0.7  # of a PNG of noisy images, for each value
# Of the activations, measured: glibc's allocator does not reuse every block that was freed.
_SCATTERED, _SCATTERED_BY_PARTS = 0.31, 0.7
_CODE = 115 << 20  # bytes that the first step, the first samples and what they import add, measured
_CONTEXT = 600 << 20  # bytes that CUDA, its libraries and their kernels take on a device


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes by part, on the device that trains."""

    weights: int
    gradients: int
    exchange: int  # gradients on their way, of several processes that have all weights
    optimiser: int
    ema: int
    activations: int  # what backward needs of one part of a batch, and what is temporary
    scattered: int  # between the blocks in use, where the allocator cannot put any other
    drawing: int  # what a sample grid takes beyond what a step does; it comes between steps
    batches: int  # images, noise and those prepared ahead; on a CPU the held-out images too
    images: int  # decoded images or latents that are kept
    process: int  # the program itself and the list of images; on a GPU what the driver takes

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes of a whole run's files."""

    checkpoint: int  # one of them
    checkpoints: int  # as many as are there at once, with the one that is being written
    metrics: int
    samples: int
    latents: int  # in the cache, once for all runs on the same images
    snapshots: int = 0  # of two averages, in half precision

    @property
    def total(self) -> int:
        return self.checkpoints + self.metrics + self.samples + self.latents + self.snapshots


@dataclass(frozen=True, kw_only=True)
class RunSetup:
    """Everything that memory depends on."""

    config: RunConfig
    labels: int
    images: int  # in the data set; 0 where it is not here to be counted
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    kernels: bool = False
    processes: int = 1
    process_bytes: int = 0  # what this program has taken already, on a CPU
    room: int = 0  # bytes that the data set may take on a GPU

    @property
    def share(self) -> int:
        """Images of a step that one process computes."""
        return -(-self.config.train.batch_size // self.processes)


def usual_parts(setup: RunSetup) -> int:
    """Into how many parts a process splits its share of a batch when memory is no concern."""
    return micro_batches_for(setup.config, setup.device, setup.share)


def memory_needed(setup: RunSetup, parts: int) -> Memory:
    """What a run takes whose processes split their share of a batch into `parts`."""
    config, labels = setup.config, setup.labels
    weights = _FLOAT * models_size.parameters(config, labels)
    part = -(-setup.share // parts)
    kind = setup.device.type
    peak = activation_bytes(config, labels, part, setup.dtype, again=parts > 1, device_type=kind)
    drawing = sampling_bytes(config, labels, grid_batch(config, labels), torch.float32, kind)
    on_cpu = kind == "cpu"
    scattered = _SCATTERED_BY_PARTS if parts > 1 else _SCATTERED
    return Memory(
        weights=weights,
        gradients=weights,
        exchange=weights if setup.processes > 1 else 0,
        optimiser=2 * weights,
        ema=weights * (3 if config.train.snapshot_every else 1),
        activations=max(0, peak - weights),
        scattered=round(scattered * max(peak, drawing)) if on_cpu else 0,
        drawing=max(0, drawing - max(peak, weights)),
        batches=_batches(setup),
        images=_kept_images(setup),
        process=setup.process_bytes + _CODE if on_cpu else _CONTEXT,
    )


def grid_batch(config: RunConfig, labels: int) -> int:
    """Images of a sample grid, for the raw weights and for their average each."""
    columns = config.train.sample_columns
    return min(labels, _ROWS) * columns if labels else 4 * columns


def _batches(setup: RunSetup) -> int:
    config = setup.config
    values = math.prod(config.shape)
    of_step = _FLOAT * values * (config.train.batch_size + setup.share)  # noise of the whole batch, and its images
    if setup.device.type != "cpu":
        return of_step
    ahead = (_AHEAD - 1) * (_FLOAT + 1) * values * setup.share
    return of_step + ahead + 2 * _FLOAT * values * config.data.validation


def _kept_images(setup: RunSetup) -> int:
    """Bytes of images or latents that stay in memory, or on the device; other latents are read where they lie."""
    config, data = setup.config, setup.config.data
    if config.autoencoder.name == PIXEL:
        size, most = setup.images * math.prod(data.image_size) * data.channels, MOST_CACHE_BYTES
    else:
        size, most = _latents_to_train_on(config, setup.images), 0
    if setup.device.type != "cpu":
        most = setup.room
    return size if size <= most and not data.workers else 0


def available_memory(device: torch.device, process_bytes: int = 0) -> int | None:
    """Bytes that a run may take here, with what this process has already; None where the system does not say."""
    if device.type == "cuda":
        return free_bytes(device) + _CONTEXT
    if device.type != "cpu":
        return memory.machine_memory()
    limits = (memory.machine_memory(), memory.free_memory(process_bytes))
    return min((limit for limit in limits if limit is not None), default=None)


def fitting_parts(setup: RunSetup, available: int, at_least: int = 1) -> int | None:
    """The usual parts if they fit, else the fewest that divide a batch evenly and do; None if one image does not."""
    batch, usual = setup.config.train.batch_size, max(usual_parts(setup), at_least)
    candidates = [usual, *(parts for parts in _divisors(batch) if parts > usual)]
    return _first(candidates, lambda parts: memory_needed(setup, min(parts, setup.share)).total <= available)


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def _first(candidates: list[int], fits: Callable[[int], bool]) -> int | None:
    """The first that fits, of candidates that need less and less, by halving."""
    if not candidates or not fits(candidates[-1]):
        return None
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(candidates[middle]) else (middle + 1, high)
    return candidates[low]


def disk(config: RunConfig, labels: int, images: int) -> Disk:
    """The files of a run from its first step to its last."""
    train = config.train
    checkpoint = models_size.checkpoint_bytes(config, labels) + (64 << 10)
    best = 1 if config.data.validation else 0  # that of the lowest loss
    permanent = train.steps // train.keep_every if train.keep_every else 0
    kept = min(checkpoints_written(train), train.keep + best + permanent)
    snapshots = train.steps // train.snapshot_every if train.snapshot_every else 0
    height, width = config.data.image_size
    grid = 2 * grid_batch(config, labels) * height * width * config.data.channels * _PIXEL_BYTES
    return Disk(
        checkpoint=checkpoint,
        checkpoints=checkpoint * (kept + 1),
        metrics=train.steps // train.log_every * (_METRICS_ROW + _TIMING_ROW),
        samples=round(-(-train.steps // train.sample_every) * grid),
        latents=_latents(config, images),
        snapshots=snapshots * _FLOAT * models_size.parameters(config, labels),
    )


def checkpoints_written(train: TrainConfig) -> int:
    """How many checkpoints a whole run writes."""
    every, permanent, before = train.save_every, train.keep_every, train.steps - 1
    extra = before // permanent - before // math.lcm(every, permanent) if permanent else 0
    return before // every + extra + 1


def _latents(config: RunConfig, images: int) -> int:
    """Bytes of the latents of so many images to train on, and of those held out."""
    if config.autoencoder.name == PIXEL:
        return 0
    held_out = config.data.validation * (2 if config.autoencoder.name == "kl" else 1)
    return _latents_to_train_on(config, images) + 2 * math.prod(config.shape) * held_out


def _latents_to_train_on(config: RunConfig, images: int) -> int:
    versions = (2 if config.data.flip else 1) * (2 if config.autoencoder.name == "kl" else 1)  # mirrored; mean and std
    return 2 * math.prod(config.shape) * images * versions
