"""Exponential moving average of the weights, with a warm-up so that early samples are not the initialisation."""

from __future__ import annotations

import copy

import torch
from torch import nn


def decay_at(step: int, decay: float) -> float:
    """The decay of update number `step`, counted from 1: step / (step + 9) at first, 0.1 rising to `decay`."""
    return min(decay, step / (step + 9))


class Ema:
    """A second network whose weights follow the first one's; `network` is it, in eval mode, without gradients."""

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards `network` after its step number `step`, counted from 1."""
        averages = [parameter.data for parameter in self.network.parameters()]
        weights = [parameter.data for parameter in network.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - decay_at(step, self.decay))  # pyright: ignore
