"""A learning-rate range test made for diffusion (after Smith 2017, section 3.3).

The loss of a diffusion model depends mostly on which timestep was drawn, so that a plain sweep is noise. Here every
step trains on fresh data at a higher rate and is then scored on the same images, noise and timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .. import optim
from ..config import RunConfig
from ..data.balance import balanced
from ..data.batches import Batches, Reader
from ..data.contract import Dataset, Datasets, open_datasets
from ..errors import DivergedError
from ..kernels.choice import choose
from ..objectives.contract import open_objective
from ..runtime.device import find_device
from ..runtime.distributed import ProcessGroup
from ..training.init_weights import first_latents, first_network
from ..training.step import SpeedOptions, compute_gradients, open_step_context
from ..training.training_data import open_training_data
from ..training.validation_set import Cases, ValidationSet, pixel_cases

LOWEST, HIGHEST = 1e-6, 1.0
_WARMUP_RATE = 2e-4  # not a part of the config's own rate: the result must not depend on that
_SMOOTHING_DECADES = 0.15


@dataclass(frozen=True, kw_only=True)
class LRCurve:
    """Loss on the fixed set after the step at each rate, and the rates that follow from it."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    lowest: float  # the rate of the lowest smoothed loss: the largest at which a short test still learns
    suggestion: float  # half of that
    configured: float | None = None  # that of the settings, which the test does not use


def find_lr(
    config: RunConfig,
    *,
    device: str = "auto",
    dtype: str = "auto",
    steps: int = 120,
    warmup: int = 30,
    on_step: Callable[[int, int, float, float], None] | None = None,
    datasets: Datasets | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> LRCurve:
    """Sweep the rate from 1e-6 to 1 over `steps` steps of a fresh network of this config, until the loss blows up.

    Nothing is kept but the curve. It tells which rates a short test bears: a rate found by whole runs is better.

    Args:
        warmup: steps at a low rate that come first: a network whose gates start at zero passes no gradient to its
            inner layers before.
        on_step: is called with (step, steps, rate, loss).
        datasets: those of the config, where they are open already.
        should_stop: is asked at every step; KeyboardInterrupt is raised when it says so.

    Raises DitkitError when no rate lowers the loss.
    """
    torch_device = find_device(device)
    compute = choose(config, torch_device, dtype)
    datasets = datasets or open_datasets(config.data)
    objective = open_objective(config.diffusion)
    network = first_network(config, datasets.train.labels, torch_device)
    optimizer = optim.adamw(network, config.optim)
    data = open_training_data(config, datasets, torch_device, stats=first_latents(config))
    scored = ValidationSet(_cases(data.train, config.train.batch_size), objective, config.seed)
    speed = SpeedOptions(compile="off")
    context, _ = open_step_context(config, network, objective, torch_device, compute, ProcessGroup(), speed)
    images = balanced(config, data.train)
    batches = Batches(images, config.train.batch_size, config.seed, flip=config.data.flip).iterate(0)
    rates, losses = [], []
    best = math.inf
    for step in range(-warmup, steps):
        if should_stop():
            raise KeyboardInterrupt
        rate = LOWEST * (HIGHEST / LOWEST) ** (max(step, 0) / (steps - 1)) if step >= 0 else _WARMUP_RATE
        compute_gradients(context, step + warmup, next(batches), "lr finder", list, lambda: None)
        optim.clip(network, config.optim.clip, optim.norm(network))
        optim.set_rate(optimizer, rate)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step < 0:
            continue
        score = scored.loss(network, torch_device, compute.autocast, config.train.batch_size)
        if on_step:
            on_step(step + 1, steps, rate, score)
        if not math.isfinite(score) or score > 4 * best:
            break
        rates.append(rate)
        losses.append(score)
        best = min(best, score)
    batches.close()
    return replace(read_curve(rates, losses), configured=config.optim.lr)


def read_curve(rates: Sequence[float], losses: Sequence[float]) -> LRCurve:
    """Smooth a sweep over the logarithm of the rate and find its two rates; see LRCurve."""
    if len(rates) < 8:
        raise DivergedError(
            "the loss blew up at once, at the lowest rates", "check the images and the model's settings"
        )
    position = np.log10(np.asarray(rates))
    smoothed = smooth(position, np.asarray(losses))
    lowest = int(np.argmin(smoothed))
    if lowest < 2:
        raise DivergedError("no learning rate lowered the loss", "check the images and the model's settings")
    return LRCurve(
        rates=list(rates),
        losses=list(losses),
        smoothed=[float(value) for value in smoothed],
        lowest=float(rates[lowest]),
        suggestion=float(rates[lowest]) / 2,
    )


def smooth(position: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Gaussian kernel average of the losses over `position` (decades), in the logarithm of the loss."""
    weight = np.exp(-0.5 * ((position[:, None] - position[None, :]) / _SMOOTHING_DECADES) ** 2)
    return np.exp((weight * np.log(losses)[None, :]).sum(axis=1) / weight.sum(axis=1))


def _cases(images: Dataset | Reader, count: int) -> Cases:
    """Some training images, spread over the set."""
    indices = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    if not isinstance(images, Reader):
        return pixel_cases(images, indices.tolist())
    batch = images.read(indices, np.zeros(len(indices), dtype=bool), indices)
    return batch.x_BCHW, batch.label_B, batch.bad
