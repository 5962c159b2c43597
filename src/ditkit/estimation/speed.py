"""A few real training steps on made-up images of the right shape: how long a run takes, before it begins."""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass

import psutil
import torch

from .. import optim
from ..config import RunConfig
from ..data.batches import Batch
from ..data.contract import open_datasets
from ..ema import Ema, PowerEmas
from ..kernels.choice import Compute
from ..kernels.update import WeightUpdate
from ..models import size
from ..objectives.contract import open_objective
from ..registry import SAMPLERS
from ..runtime.distributed import ProcessGroup
from ..runtime.peak_flops import Utilization
from ..training.init_weights import fresh_network
from ..training.step import SpeedOptions, compute_gradients, open_step_context
from .memory import RunSetup, checkpoints_written, grid_batch

_MOST = 50  # steps
_CALLED = 32  # images of a forward pass
_DISK = 300e6  # bytes a second that are hashed, written and synced
_USUAL = 0.6  # of its peak that a device reaches in large networks
_SLOW = 0.4  # of its peak that a device reaches at least, to guess how many images the time allows


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds, measured or, for the whole run, added up."""

    step: float
    validation: float  # all of the run's, and so on
    drawing: float
    saving: float
    total: float
    images_per_second: float
    utilisation: float | None
    tried: bool = True  # False: computed, because even a step of one image takes too long to measure


def process_bytes(config: RunConfig | None = None, *, is_open: bool = False) -> int:
    """The memory of this process with all that a run will load; 0 where the system does not say.

    The data sets of `config` are opened while it is measured, unless the caller holds them open.
    """
    from ..training.loop import train  # noqa: F401

    if config:
        SAMPLERS.load(config.sample.sampler)
    datasets = open_datasets(config.data) if config and not is_open else None
    try:
        held = psutil.Process().memory_info().rss
    except (psutil.Error, OSError):
        return 0
    del datasets
    return held


def measure(setup: RunSetup, parts: int, gauge: Utilization, seconds: float) -> Timing:
    """Take real steps for about so many seconds, at least two, and add up what the whole run takes."""
    if gauge.peak is not None and gauge.image_flops > seconds * _SLOW * gauge.peak:
        image = gauge.image_flops / (_USUAL * gauge.peak)
        timing = _for_the_run(setup, gauge, image * setup.share, image / 3)
        return dataclasses.replace(timing, tried=False)
    few = _affordable(setup, parts, gauge, seconds)
    engine = _Engine(setup, few, max(1, round(parts * few / setup.share)))
    engine.step(0)
    times: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(times) < 2 or (time.perf_counter() - began < seconds and len(times) < _MOST):
        times.append(engine.step(len(times) + 1))
    gradients, update = (statistics.median(seconds) for seconds in zip(*times, strict=True))
    step = gradients * setup.share / few + update
    return _for_the_run(setup, gauge, step, engine.call())


def _affordable(setup: RunSetup, parts: int, gauge: Utilization, seconds: float) -> int:
    """Images of a step that is short enough to take several."""
    if gauge.peak is None:
        return setup.share
    most = int(seconds / 4 * _SLOW * gauge.peak / gauge.image_flops)
    part = -(-setup.share // parts)
    return min(setup.share, max(1, most // part * part or most))


def _for_the_run(setup: RunSetup, gauge: Utilization, step: float, call: float) -> Timing:
    """`call`: seconds of the network for one image, forward only."""
    config = setup.config
    train, sample = config.train, config.sample
    guided = 2 if sample.guidance != 1 else 1
    grids = -(-train.steps // train.sample_every)
    drawing = grids * 2 * grid_batch(config, setup.labels) * guided * sample.steps * call
    validation = -(-train.steps // train.validate_every) * 2 * config.data.validation * call
    saving = checkpoints_written(train) * size.checkpoint_bytes(config, setup.labels) / _DISK
    speed = train.batch_size / step
    return Timing(
        step=step,
        validation=validation,
        drawing=drawing,
        saving=saving,
        total=train.steps * step + validation + drawing + saving,
        images_per_second=speed,
        utilisation=gauge.of_peak(speed),
    )


class _Engine:
    """Network, optimiser and average that take real steps on images of zeros."""

    def __init__(self, setup: RunSetup, images: int, parts: int):
        config, device = setup.config, setup.device
        train = dataclasses.replace(config.train, batch_size=images, accumulate=1)
        self._config = dataclasses.replace(config, train=train)
        self._device = device
        compute = Compute(dtype=setup.dtype, kernels=setup.kernels)
        self._network = fresh_network(config, setup.labels, device)
        self._optimizer = optim.adamw(self._network, config.optim)
        averages = Ema(self._network, config.optim.ema_decay), PowerEmas(self._network, ())
        self._update = WeightUpdate(self._network, self._optimizer, *averages, config.optim.clip)
        objective, speed = open_objective(config.diffusion), SpeedOptions(compile="off")
        self._worker, _ = open_step_context(
            self._config, self._network, objective, device, compute, ProcessGroup(), speed
        )
        self._worker.micro_batches = parts
        self._batch = Batch(torch.zeros(images, *config.shape), torch.zeros(images, dtype=torch.int64), {})

    def step(self, number: int) -> tuple[float, float]:
        """Seconds of the gradients, and of the rest."""
        began = self._now()
        compute_gradients(self._worker, number, self._batch, "noise", list, lambda: None)
        between = self._now()
        self._update(self._config.optim.lr, self._update.norm(), number + 1)
        self._optimizer.zero_grad(set_to_none=True)
        return between - began, self._now() - between

    @torch.no_grad()
    def call(self) -> float:
        """Seconds of one image in a forward pass."""
        few = self._batch.x_BCHW[:_CALLED].to(self._device)
        label_B = torch.zeros(len(few), dtype=torch.int64, device=self._device)
        times = []
        for _ in range(2):
            began = self._now()
            self._update.ema.network(few, torch.ones(len(few), device=self._device), label_B)
            times.append(self._now() - began)
        return min(times) / len(few)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
