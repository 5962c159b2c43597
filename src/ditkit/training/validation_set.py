"""Held-out images with fixed noise, for a validation loss that can be compared between steps."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..data.contract import Dataset
from ..data.pixels import from_levels
from ..errors import DataError
from ..objectives.contract import Objective
from ..runtime.device import autocast
from ..seeding import generator

# Held-out images or their latents, float32 (N, C, H, W); labels (N,); index -> reason of those that cannot be read.
Cases = tuple[Tensor, Tensor, dict[int, str]]


def pixel_cases(dataset: Dataset, indices: Iterable[int]) -> Cases:
    """Some images of a data set, as pixels in [-1, 1]."""
    images, labels, bad = [], [], {}
    for index in indices:
        try:
            image, label = dataset[index]
        except DataError as error:
            bad[index] = error.message
            continue
        images.append(torch.from_numpy(image))
        labels.append(label)
    x_BCHW = from_levels(torch.stack(images).permute(0, 3, 1, 2)) if images else torch.empty(0)
    return x_BCHW, torch.tensor(labels, dtype=torch.int64), bad


class ValidationSet:
    """Held-out images with noise and timesteps that are the same at every step; nothing but the weights differs."""

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
        """Mean loss over all held-out images, with their true labels: none is dropped."""
        total = 0.0
        parts = (tensor.split(batch_size) for tensor in (self.x_BCHW, self.label_B, self.timestep_B, self.noise_BCHW))
        for tensors in zip(*parts, strict=True):
            with autocast(device, dtype):
                total += float(self._objective.loss_at(network, *(tensor.to(device) for tensor in tensors)).sum())
        return total / len(self)
