"""Averages of the weights whose length is a part of the training, and how others are made of them.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696), section 3:
after step t the weights of step s count in proportion to s^gamma. The length of such a profile is its relative standard
deviation, sigma_rel: 0.05 is an average over about the last tenth of the training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from .errors import UsageError

if TYPE_CHECKING:
    import numpy as np

TRACKED = (0.05, 0.10)  # lengths, as in the paper
SHORTEST, LONGEST = 0.005, 0.25  # lengths that may be asked for; the plain mean of all steps would be 0.289

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


def checked_length(text: str) -> float:
    """The length that a word asks for. Raises UsageError."""
    try:
        length = float(text)
    except ValueError:
        length = math.nan
    if not SHORTEST <= length <= LONGEST:
        hint = "0.05 averages over about the last tenth of the training, 0.1 over the last fifth"
        raise UsageError(f"--ema: {text} is not a length between {SHORTEST} and {LONGEST}", hint)
    return length


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
