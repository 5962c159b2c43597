"""Looking at a run while it trains: the validation loss and the sample grid, both at fixed noise."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from .config import RunConfig
from .data.contract import Dataset
from .device import autocast
from .errors import DataError
from .images import grid, save_png, side_by_side, to_uint8
from .latents import Codec
from .objectives.contract import Objective
from .sampling import draw
from .seeding import generator

_MOST_ROWS = 12

# What the network models of held-out images, float32 (N, C, H, W); labels (N,); images that could not be read -> why.
Cases = tuple[Tensor, Tensor, dict[int, str]]


def pixel_cases(dataset: Dataset, indices: Iterable[int]) -> Cases:
    """Some images of a data set as cases."""
    images, labels, bad = [], [], {}
    for index in indices:
        try:
            image, label = dataset[index]
        except DataError as error:
            bad[index] = error.message
            continue
        images.append(torch.from_numpy(image))
        labels.append(label)
    x_BCHW = torch.stack(images).permute(0, 3, 1, 2).float() / 127.5 - 1 if images else torch.empty(0)
    return x_BCHW, torch.tensor(labels, dtype=torch.int64), bad


class ValidationSet:
    """Held-out images with noise and timesteps that never change, so that losses can be compared between steps."""

    def __init__(self, cases: Cases, objective: Objective, seed: int):
        self.x_BCHW, self.label_B, self.bad = cases
        source = generator(seed, "validation")
        self.noise_BCHW = torch.randn(self.x_BCHW.shape, generator=source)
        self.timestep_B = objective.draw_timesteps(len(self), source) if len(self) else torch.empty(0)
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
    codec: Codec,
) -> None:
    """Write the grid of a step: one row per class from the same noise as ever, raw weights left, EMA right."""
    rows, columns = labels[:_MOST_ROWS] or ("",), config.train.sample_columns
    columns = columns if labels else columns * 4
    ids = [row for row in range(len(rows)) for _ in range(columns)] if labels else [0] * columns
    both: list[Tensor] = [
        draw(
            network,
            config.diffusion,
            shape=config.shape,
            labels=ids,
            null_label=len(labels),
            seeds=range(config.seed, config.seed + len(ids)),
            settings=config.sample,
            device=device,
        )
        for network in (raw, ema)
    ]
    pictures = [
        grid(
            to_uint8(codec.to_images(x_BCHW.to(device))),
            columns if labels else 4,
            row_names=rows if labels and index == 0 else None,
        )
        for index, x_BCHW in enumerate(both)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(side_by_side(pictures[0], pictures[1], names=("raw weights", "EMA")), path, {"step": str(step)})
