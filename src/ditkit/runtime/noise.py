"""Noise and timesteps of training: functions of (seed, stream, step), the same on every device.

B batch, b a process's share of it; C channels, H W image.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from functools import partial

import torch
from torch import Tensor

from ..config import RunConfig
from ..data.prefetch import prefetched
from ..objectives.contract import Objective
from ..seeding import generator
from .transfer import send

Drawn = tuple[Tensor, Tensor, Tensor]
_AHEAD = 2  # steps whose noise is drawn while the device computes


def draw_noise_and_timesteps(
    objective: Objective,
    shape: tuple[int, ...],
    seed: int,
    stream: str,
    step: int,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Timesteps (B,), on the CPU, and noise of a shape (B, C, H, W) for a step.

    The noise is drawn on the device. GPUs of different models draw different noise from the same seed: their
    generators give each thread numbers of its own, and the number of threads depends on the model.
    """
    source, device = generator(seed, stream, step), torch.device(device)
    timestep_B = objective.draw_timesteps(shape[0], source)
    if device.type != "cpu":
        source = generator(seed, stream, step, device)
    return timestep_B, torch.randn(shape, generator=source, device=device)


class NoiseSource:
    """What a process needs of each step's noise. It is drawn on the CPU; for another device by threads, in advance.

    Args:
        share: of each batch, that this process computes. Noise is drawn for the whole batch and then cut: the numbers
            must not depend on how many processes there are.
        on_device: draw on the device instead, as runs do that an earlier ditkit began on a GPU.
    """

    def __init__(
        self, config: RunConfig, objective: Objective, share: slice, device: torch.device, *, on_device: bool = False
    ):
        self._device, self._in_advance = device, device.type != "cpu" and not on_device
        drawing = torch.device("cpu") if self._in_advance else device
        pins = self._in_advance and device.type == "cuda"
        self._draw = partial(_draw, config, objective, share, drawing, pins)
        self._ready: Generator[Drawn, None, None] | None = None
        self._next: tuple[str, int] | None = None  # stream and step that come out of `_ready`

    def at(self, stream: str, step: int) -> Drawn:
        """Timesteps (B,) of the whole batch, on the CPU; timesteps (b,) and noise (b, C, H, W) on the device."""
        timestep_B, timestep_b, noise_bCHW = (self._taken if self._in_advance else self._draw)(stream, step)
        return timestep_B, send(timestep_b, self._device), send(noise_bCHW, self._device)

    def _taken(self, stream: str, step: int) -> Drawn:
        if self._ready is None or self._next != (stream, step):  # the first step, and after the run has gone back
            if self._ready is not None:
                self._ready.close()
            draw, steps = partial(self._draw, stream), itertools.count(step)
            self._ready = prefetched(draw, steps, ahead=_AHEAD, threads=_AHEAD, name="ditkit-noise")
        self._next = (stream, step + 1)
        return next(self._ready)


def _draw(
    config: RunConfig, objective: Objective, share: slice, device: torch.device, pins: bool, stream: str, step: int
) -> Drawn:
    shape = (config.train.batch_size, *config.shape)
    timestep_B, noise_BCHW = draw_noise_and_timesteps(objective, shape, config.seed, stream, step, device)
    timestep_b, noise_bCHW = timestep_B[share], noise_BCHW[share]
    return (
        (timestep_B, timestep_b.pin_memory(), noise_bCHW.pin_memory()) if pins else (timestep_B, timestep_b, noise_bCHW)
    )
