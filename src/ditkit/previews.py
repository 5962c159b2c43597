"""Looking at a run while it trains: the validation loss and the sample grid, both at fixed noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .config import RunConfig
from .data.contract import Dataset
from .device import autocast
from .errors import DataError
from .images import grid, save_png, side_by_side, to_uint8
from .objectives.contract import Objective
from .sampling import draw
from .seeding import generator

_MOST_ROWS = 12


class ValidationSet:
    """Held-out images with noise and timesteps that never change, so that losses can be compared between steps."""

    def __init__(self, dataset: Dataset, objective: Objective, seed: int):
        self.bad: dict[int, str] = {}  # images that cannot be read, and are left out: index -> why
        cases = [case for index in range(len(dataset)) if (case := self._read(dataset, index))]
        images = [torch.from_numpy(image) for image, _ in cases]
        self.x_BCHW = torch.stack(images).permute(0, 3, 1, 2).float() / 127.5 - 1 if images else torch.empty(0)
        self.label_B = torch.tensor([label for _, label in cases], dtype=torch.int64)
        source = generator(seed, "validation")
        self.noise_BCHW = torch.randn(self.x_BCHW.shape, generator=source)
        self.timestep_B = objective.draw_timesteps(len(images), source) if images else torch.empty(0)
        self._objective = objective

    def _read(self, dataset: Dataset, index: int) -> tuple[np.ndarray, int] | None:
        try:
            return dataset[index]
        except DataError as error:
            self.bad[index] = error.message
            return None

    def __len__(self) -> int:
        return len(self.label_B)

    @torch.no_grad()
    def loss(self, network: nn.Module, device: torch.device, dtype: torch.dtype, batch_size: int) -> float:
        """Mean loss over all held-out images, with their true labels."""
        total = 0.0
        parts = (one.split(batch_size) for one in (self.x_BCHW, self.label_B, self.timestep_B, self.noise_BCHW))
        for tensors in zip(*parts, strict=True):
            with autocast(device, dtype):
                total += float(self._objective.loss_at(network, *(one.to(device) for one in tensors)).sum())
        return total / len(self)


def draw_grid(
    config: RunConfig,
    labels: tuple[str, ...],
    raw: nn.Module,
    ema: nn.Module,
    path: Path,
    step: int,
    device: torch.device,
) -> None:
    """Write the grid of a step: one row per class from the same noise as ever, raw weights left, EMA right."""
    rows, columns = labels[:_MOST_ROWS] or ("",), config.train.sample_columns
    columns = columns if labels else columns * 4
    ids = [row for row in range(len(rows)) for _ in range(columns)] if labels else [0] * columns
    shape = (config.data.channels, *config.data.image_size)
    both: list[Tensor] = [
        draw(
            network,
            config.diffusion,
            shape=shape,
            labels=ids,
            null_label=len(labels),
            seeds=range(config.seed, config.seed + len(ids)),
            settings=config.sample,
            device=device,
        )
        for network in (raw, ema)
    ]
    pictures = [
        grid(to_uint8(x_BCHW), columns if labels else 4, row_names=rows if labels and index == 0 else None)
        for index, x_BCHW in enumerate(both)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(side_by_side(pictures[0], pictures[1], names=("raw weights", "EMA")), path, {"step": str(step)})
