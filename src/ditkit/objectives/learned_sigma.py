"""Noise and the reverse step's variance, by a variational bound (Nichol & Dhariwal 2021); diffusion only.

B batch, C channels, H W image. Equations without a name are of that paper.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..config import DiffusionConfig
from ..errors import UsageError
from .contract import Network, Objective, Process, over_image
from .regression import Regression
from .tables import on_device


def objective(config: DiffusionConfig) -> Objective:
    """Squared error of the noise plus the bound on the variance; the network gives 2C channels."""
    if config.process != "diffusion":
        raise UsageError("learned-sigma needs a diffusion process", "use --set diffusion.process=diffusion")
    return LearnedSigma(config)


class LearnedSigma:
    """L_simple + T/1000 L_t: one term of L_hybrid = L_simple + 0.001 sum_t L_t, eq. 16, at the drawn timestep."""

    prediction = "epsilon"

    def __init__(self, config: DiffusionConfig):
        self._epsilon = Regression("epsilon", config)
        self.process = self._epsilon.process

    def draw_timesteps(self, batch: int, generator: torch.Generator) -> Tensor:
        return self._epsilon.draw_timesteps(batch, generator)

    def loss_at(
        self, network: Network, x_BCHW: Tensor, label_B: Tensor, timestep_B: Tensor, noise_BCHW: Tensor
    ) -> Tensor:
        signal_B, noise_B = self.process.signal_noise(timestep_B)
        x_t_BCHW = over_image(signal_B) * x_BCHW + over_image(noise_B) * noise_BCHW
        output_BCHW, range_BCHW = network(x_t_BCHW, timestep_B, label_B).float().chunk(2, dim=1)
        simple_B = self._epsilon.weighted_error(output_BCHW, x_BCHW, noise_BCHW, signal_B, noise_B)
        # Detached: the bound teaches the variance only, the mean keeps L_simple's gradient (section 3.1).
        error_BCHW = output_BCHW.detach() - noise_BCHW
        bound_B = variational_bound(self.process, x_BCHW, error_BCHW, range_BCHW, timestep_B)
        return simple_B + self.process.timesteps / 1000 * bound_B


def variational_bound(
    process: Process, x_BCHW: Tensor, error_BCHW: Tensor, range_BCHW: Tensor, timestep_B: Tensor
) -> Tensor:
    """L_t of eqs. 5 and 6 in bits per dimension, (B,), for a network whose predicted noise is off by `error`.

    `range` in [-1, 1] places the log variance between that of q(x_{t-1} | x_t, x_0) and log beta_t (eq. 15).
    """
    smallest, largest, gain = (
        over_image(table[timestep_B.long()]) for table in on_device(x_BCHW.device, _tables, process)
    )
    fraction_BCHW = (range_BCHW + 1) / 2
    log_variance_BCHW = fraction_BCHW * largest + (1 - fraction_BCHW) * smallest
    gap_BCHW = gain * error_BCHW  # between the means of q and p
    divergence_BCHW = 0.5 * (
        log_variance_BCHW
        - smallest
        + torch.exp(smallest - log_variance_BCHW)
        + gap_BCHW.square() * torch.exp(-log_variance_BCHW)
        - 1
    )
    decoder_BCHW = _level_surprise(x_BCHW, gap_BCHW, torch.exp(-0.5 * log_variance_BCHW))
    term_BCHW = torch.where(over_image(timestep_B) < 1, decoder_BCHW, divergence_BCHW)
    return term_BCHW.mean(dim=(1, 2, 3)) / math.log(2)


def _level_surprise(x_BCHW: Tensor, gap_BCHW: Tensor, precision_BCHW: Tensor) -> Tensor:
    """-log p(x_0 | x_1) of 8-bit images under a Gaussian that is `gap` away (Ho et al. 2020, eq. 13), in nats."""
    half_level = 1 / 255
    above = torch.special.ndtr((gap_BCHW + half_level) * precision_BCHW)
    below = torch.special.ndtr((gap_BCHW - half_level) * precision_BCHW)
    # The outermost levels reach to infinity.
    above = torch.where(x_BCHW > 0.999, torch.ones_like(above), above)
    below = torch.where(x_BCHW < -0.999, torch.zeros_like(below), below)
    return -torch.log((above - below).clamp(min=1e-12))


@lru_cache(maxsize=8)
def _tables(process: Process) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smallest and largest log variance of each reverse step, and how much it magnifies an error of the noise."""
    beta = process.betas()
    abar = np.cumprod(1 - beta)
    before = np.append(1.0, abar[:-1])
    posterior = beta * (1 - before) / (1 - abar)
    posterior[0] = posterior[1]  # the variance of the last step is 0, which has no logarithm
    gain = beta / np.sqrt((1 - abar) * (1 - beta))
    smallest, largest = np.log(posterior), np.log(beta)
    return smallest.astype(np.float32), largest.astype(np.float32), gain.astype(np.float32)
