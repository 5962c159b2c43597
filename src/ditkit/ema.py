"""Exponential moving average of the weights, with a warm-up so that early samples are not the initialisation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .power_ema import decay_of_power


def decay_at(step: int, decay: float) -> float:
    """The decay of update number `step`, counted from 1: step / (step + 9) at first, 0.1 rising to `decay`."""
    return min(decay, step / (step + 9))


class Ema:
    """A second network whose weights follow the first one's; `network` is it, in eval mode, without gradients."""

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.network = _copy(network)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards `network` after its step number `step`, counted from 1."""
        _move(self.network, network, decay_at(step, self.decay))


class PowerEmas:
    """Averages with power-function profiles, of which any other length can be made after training (see `post_hoc`).

    `lengths` are relative standard deviations, in units of the training so far; none are kept for ().
    """

    def __init__(self, network: nn.Module, lengths: Sequence[float]):
        self.networks = {length: _copy(network) for length in lengths}

    @classmethod
    def none(cls) -> PowerEmas:
        """Of a run that keeps none."""
        return cls(nn.Identity(), ())

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards `network` after its step number `step`, counted from 1 (Karras et al. 2024, eq. 2)."""
        for length, average in self.networks.items():
            _move(average, network, decay_of_power(step, length))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All of them, called length|name."""
        for length, average in self.networks.items():
            yield from ((f"{length:g}|{name}", value) for name, value in average.state_dict().items())


def _copy(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).eval().requires_grad_(False)


def _move(average: nn.Module, network: nn.Module, decay: float) -> None:
    averages = [parameter.data for parameter in average.parameters()]
    weights = [parameter.data for parameter in network.parameters()]
    torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore
