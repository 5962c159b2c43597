"""Looking at a run while it trains: the validation loss and the sample grid, both at fixed noise."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .config import RunConfig
from .data.contract import Dataset
from .device import autocast
from .images import grid, save_png, side_by_side, to_uint8
from .objectives.contract import Objective
from .sampling import draw
from .seeding import generator

_MOST_ROWS = 12


class ValidationSet:
    """Held-out images with noise and timesteps that never change, so that losses can be compared between steps."""

    def __init__(self, dataset: Dataset, objective: Objective, seed: int):
        images = [torch.from_numpy(dataset[index][0]) for index in range(len(dataset))]
        self.x_BCHW = torch.stack(images).permute(0, 3, 1, 2).float() / 127.5 - 1 if images else torch.empty(0)
        self.label_B = torch.tensor([dataset[index][1] for index in range(len(dataset))], dtype=torch.int64)
        source = generator(seed, "validation")
        self.noise_BCHW = torch.randn(self.x_BCHW.shape, generator=source)
        self.timestep_B = objective.draw_timesteps(len(dataset), source) if images else torch.empty(0)
        self._objective = objective

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
