"""EMA, and power-function EMAs (Karras 2024)."""

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


def product(one: Profile, other: Profile) -> float:
    """The integral over all steps of two profiles' product (appendix C)."""
    (step, length), (its_step, its_length) = one, other
    power, its_power = power_of(length), power_of(its_length)
    common = min(step, its_step)
    shape = (power + 1) * (its_power + 1) / (power + its_power + 1)
    return shape * (common / step) ** power * (common / its_step) ** its_power * common / step / its_step


def combination(profiles: Sequence[Profile], wanted: Profile) -> tuple[np.ndarray, float]:
    """Factors (N,) of the profiles whose sum is nearest to the wanted one, and how far that is from it, in [0, 1].

    Least squares in float64 (appendix C); far is a part of the wanted profile's norm.
    """
    import numpy as np

    scale_N = np.array([product(one, one) for one in profiles]) ** 0.5
    wanted_scale = product(wanted, wanted) ** 0.5
    matrix_NN = np.array([[product(one, other) for other in profiles] for one in profiles]) / np.outer(scale_N, scale_N)
    vector_N = np.array([product(one, wanted) for one in profiles]) / scale_N / wanted_scale
    factor_N = np.linalg.lstsq(matrix_NN, vector_N, rcond=1e-10)[0]
    left = 1 - 2 * factor_N @ vector_N + factor_N @ matrix_NN @ factor_N
    return factor_N * wanted_scale / scale_N, float(np.sqrt(max(left, 0)))


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
