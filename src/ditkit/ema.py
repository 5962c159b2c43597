"""Averages of the weights: EMA, and power-function EMAs (Karras et al. 2024, arXiv 2312.02696).

N profiles. Equations and appendices are of that paper.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np


TRACKED = (0.05, 0.10)  # lengths, as in the paper

Profile = tuple[int, float]  # steps, and length


@lru_cache
def power_of(length: float) -> float:
    """The exponent gamma of a length (eq. 4): length^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), solved for it."""
    import numpy as np

    inverse = length**-2
    return max(root.real for root in np.roots([1, 7, 16 - inverse, 12 - inverse]) if abs(root.imag) < 1e-9)


def decay_of_power(step: int, length: float) -> float:
    """The decay of update number `step`, counted from 1, in [0, 1): (1 - 1/step)^(gamma + 1) (eq. 2)."""
    return (1 - 1 / step) ** (power_of(length) + 1)


def product(a: Profile, b: Profile) -> float:
    """The integral over all steps of two profiles' product (appendix C)."""
    (step_a, length_a), (step_b, length_b) = a, b
    power_a, power_b = power_of(length_a), power_of(length_b)
    common = min(step_a, step_b)
    shape = (power_a + 1) * (power_b + 1) / (power_a + power_b + 1)
    return shape * (common / step_a) ** power_a * (common / step_b) ** power_b * common / step_a / step_b


def combination(profiles: Sequence[Profile], wanted: Profile) -> tuple[np.ndarray, float]:
    """Factors (N,) of the profiles whose sum is nearest to the wanted one, and how far that is from it, in [0, 1].

    Least squares in float64 (appendix C); the distance is a part of the wanted profile's norm.
    """
    import numpy as np

    scale_N = np.array([product(profile, profile) for profile in profiles]) ** 0.5
    wanted_scale = product(wanted, wanted) ** 0.5
    matrix_NN = np.array([[product(a, b) for b in profiles] for a in profiles]) / np.outer(scale_N, scale_N)
    vector_N = np.array([product(profile, wanted) for profile in profiles]) / scale_N / wanted_scale
    factor_N = np.linalg.lstsq(matrix_NN, vector_N, rcond=1e-10)[0]
    distance = 1 - 2 * factor_N @ vector_N + factor_N @ matrix_NN @ factor_N
    return factor_N * wanted_scale / scale_N, float(np.sqrt(max(distance, 0)))


def decay_at(step: int, decay: float) -> float:
    """The decay of update number `step`, counted from 1: rising from 0.1 as step / (step + 9), at most `decay`."""
    return min(decay, step / (step + 9))


class Ema:
    """`network`, in eval mode and without gradients, whose weights are a moving average of another network's."""

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.network = _copy(network)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards `network` after its step number `step`, counted from 1."""
        _move(self.network, network, decay_at(step, self.decay))


class PowerEmas:
    """Averages with power-function profiles, of which any other length can be made after training.

    `lengths` are relative standard deviations, in units of the training so far; none are kept for ().
    See `checkpoint.posthoc_ema`.
    """

    def __init__(self, network: nn.Module, lengths: Sequence[float]):
        self.networks = {length: _copy(network) for length in lengths}

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
    # Not of their .data: that the averages have changed must be seen, where copies of them are kept.
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)  # pyright: ignore
