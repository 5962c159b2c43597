"""What is trained on trial: a small network, generated images, and how the device is to compute it.

B batch, C channels, H W image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import recipes
from ..checkpoint.loading import build_network
from ..config import RunConfig
from ..data.contract import Datasets
from ..data.from_python import with_data
from ..kernels.choice import Compute, choose, name
from ..models.dit import DiT
from ..runtime.device import find_device
from ..seeding import generator

HALF = 8  # steps after which a run is stopped and saved; it has twice as many
_LABELS, _IMAGES, _SIDE = 2, 96, 32
_SMALL = {"width": 128, "depth": 4, "heads": 4, "patch": 4}  # a step takes tenths of a second on two cores
_ON_GPU = {"width": 256, "depth": 6, "heads": 4, "patch": 2}


@dataclass(frozen=True)
class Subject:
    """What is tried, and where."""

    device: torch.device
    runs: Path  # where the user's runs are, which need not exist
    folder: Path  # for files, removed in the end

    @cached_property
    def opened(self) -> tuple[RunConfig, Datasets]:
        """Settings and images."""
        return with_data(small_config(self.device), _images(), [f"label {number}" for number in range(_LABELS)])

    @property
    def config(self) -> RunConfig:
        return self.opened[0]

    @property
    def datasets(self) -> Datasets:
        return self.opened[1]

    @cached_property
    def compute(self) -> Compute:
        """How training on this device computes if nobody says otherwise."""
        return choose(self.config, self.device)

    @property
    def dtype(self) -> str:
        return name(self.compute.dtype)


def open_subject(device: str, runs: Path, folder: Path) -> Subject:
    """Raises MachineError for a device that is not there."""
    return Subject(find_device(device), runs, folder)


def small_config(device: torch.device) -> RunConfig:
    """The settings that are tried: those of the recipe mnist, for images of colour and few steps."""
    on_cpu = device.type == "cpu"
    steps = {"steps": 2 * HALF, "save_every": HALF, "sample_every": 2 * HALF, "validate_every": 2 * HALF}
    return recipes.load(
        "mnist",
        {
            "data": {"image_size": _SIDE, "channels": 3, "validation": 8},
            "model": _SMALL if on_cpu else _ON_GPU,
            "optim": {"warmup_steps": 2, "lr": 1e-3},
            "sample": {"steps": 2},
            "train": {**steps, "batch_size": 32 if on_cpu else 128, "sample_columns": 1, "log_every": 1},
        },
    )


def _images() -> list[tuple[np.ndarray, int]]:
    """Ramps of colour, of which those of the second label are dark; uint8 (H, W, C), the same each time."""
    ramp_HW = np.add.outer(np.arange(_SIDE), np.arange(_SIDE)) * (255 / (2 * _SIDE - 2))
    images = []
    for number in range(_IMAGES):
        label = number % _LABELS
        colour_C = np.array([(number * step) % 7 + 1 for step in (1, 2, 3)]) / (8 + 8 * label)
        images.append(((ramp_HW[:, :, None] * colour_C).astype(np.uint8), label))
    return images


def network_with_open_gates(config: RunConfig) -> DiT:
    """A network whose weights are no special case: behind the closed gates of a fresh one no mistake would be seen."""
    source = generator(0, "self-test weights")
    with torch.random.fork_rng(devices=[]):
        network = build_network(config, _LABELS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=source), alpha=0.05)
    return network


def batch_of_noise(config: RunConfig, images: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, labels, timesteps and noise for `Objective.loss_at`, on the CPU."""
    source = generator(0, "self-test batch")
    x_BCHW = torch.rand((images, *config.shape), generator=source) * 2 - 1
    timestep_B = torch.linspace(0.1, 0.9, images) * config.diffusion.timesteps
    return x_BCHW, torch.arange(images) % _LABELS, timestep_B, torch.randn(x_BCHW.shape, generator=source)
