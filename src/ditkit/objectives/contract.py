"""What an objective is, the two forward processes, and the closed forms that join the four predictions.

B batch, C channels, H W image. Everywhere x_t = signal * x_0 + noise_level * eps, with eps ~ N(0, I).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..config import DiffusionConfig
from ..errors import UsageError
from ..registry import OBJECTIVES
from .tables import on_device

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_BCHW, timestep_B, label_B) -> output

PREDICTIONS = ("epsilon", "v", "x0", "velocity")
FLOW_MARGIN = 1e-3  # a flow is trained and sampled at noise levels in [margin, 1 - margin]: both ends are degenerate


@dataclass(frozen=True, kw_only=True)
class Process:
    """How data turns into noise: variance-preserving `diffusion` with linear betas, or rectified `flow`."""

    kind: str  # "diffusion" or "flow"
    timesteps: int
    beta_start: float
    beta_end: float

    def signal_noise(self, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise level, (B,) each, at timesteps in [0, timesteps) (flow: up to `timesteps`, pure noise).

        diffusion: sqrt(abar_t), sqrt(1 - abar_t), t = 0 having had one step of noise (Ho et al. 2020, eq. 4);
        flow: 1 - t/T, t/T (Liu et al. 2022, eq. 1).
        """
        if self.kind == "flow":
            noise_B = timestep_B.float() / self.timesteps
            return 1 - noise_B, noise_B
        signal, noise = on_device(timestep_B.device, _tables, self.timesteps, self.beta_start, self.beta_end)
        index_B = timestep_B.long()
        return signal[index_B], noise[index_B]

    def betas(self) -> np.ndarray:
        """The variances beta_t of a diffusion's T steps, float64 (T,), indexed by timestep as abar_t is."""
        return np.linspace(self.beta_start, self.beta_end, self.timesteps)


@lru_cache(maxsize=8)
def _tables(timesteps: int, beta_start: float, beta_end: float) -> tuple[np.ndarray, np.ndarray]:
    """sqrt(abar_t) and sqrt(1 - abar_t) of linear betas, (T,) each (Ho et al. 2020, eq. 4)."""
    abar = np.cumprod(1 - np.linspace(beta_start, beta_end, timesteps))  # in float64: it becomes tiny
    return np.sqrt(abar).astype(np.float32), np.sqrt(1 - abar).astype(np.float32)


def process_of(config: DiffusionConfig) -> Process:
    """The forward process that a config describes."""
    start, end = config.betas
    return Process(kind=config.process, timesteps=config.timesteps, beta_start=start, beta_end=end)


class Objective(Protocol):
    """What the network's output means and how far off it is, for each image; the mean over a batch is the caller's."""

    process: Process
    prediction: str  # one of PREDICTIONS: what the first C output channels are

    def draw_timesteps(self, batch: int, generator: torch.Generator) -> Tensor:
        """Timesteps (B,) as configured, float32 on the network's scale, on the generator's device."""
        ...

    def loss_at(
        self, network: Network, x_BCHW: Tensor, label_B: Tensor, timestep_B: Tensor, noise_BCHW: Tensor
    ) -> Tensor:
        """Weighted loss (B,) of clean images in [-1, 1] at given timesteps and noise, float32, mean over C, H, W."""
        ...


def open_objective(config: DiffusionConfig) -> Objective:
    """The objective that a config names. Raises UsageError if it is unknown or does not fit the process."""
    return OBJECTIVES.load(config.objective)(config)


def over_image(value_B: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1), to be multiplied with images."""
    return value_B[:, None, None, None]


def to_clean_and_noise(
    prediction: str, output: Tensor, x_t: Tensor, signal: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """(x_0, eps) implied by an output at x_t; `signal` and `noise` broadcast against the images.

    v = signal eps - noise x_0 (Salimans & Ho 2022) and velocity = eps - x_0 (Liu et al. 2022) are two more linear
    equations beside x_t = signal x_0 + noise eps; their determinants, signal^2 + noise^2 and signal + noise, are
    never 0, so both are defined on either process. On `diffusion`, velocity is not d x_t / dt but the same
    difference of noise and data. Epsilon divides by the signal and x0 by the noise: neither may be 0.
    """
    if prediction == "epsilon":
        return (x_t - noise * output) / signal, output
    if prediction == "x0":
        return output, (x_t - signal * output) / noise
    if prediction == "v":
        power = signal**2 + noise**2
        return (signal * x_t - noise * output) / power, (noise * x_t + signal * output) / power
    if prediction == "velocity":
        total = signal + noise
        return (x_t - noise * output) / total, (x_t + signal * output) / total
    raise _unknown_prediction(prediction)


def from_clean_and_noise(prediction: str, x0: Tensor, eps: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """The output of a perfect network of this prediction for clean images `x0` and noise `eps`, see above."""
    if prediction == "epsilon":
        return eps
    if prediction == "x0":
        return x0
    if prediction == "v":
        return signal * eps - noise * x0
    if prediction == "velocity":
        return eps - x0
    raise _unknown_prediction(prediction)


def _velocity_gain(prediction: str, signal_B: Tensor, noise_B: Tensor, floor: float) -> Tensor:
    """How much an error of the output is magnified in the velocity eps - x_0 that it implies, (B,)."""
    total_B = signal_B + noise_B
    if prediction == "epsilon":
        return total_B / signal_B.clamp(min=floor)
    if prediction == "x0":
        return total_B / noise_B.clamp(min=floor)
    if prediction == "v":
        return total_B / (signal_B**2 + noise_B**2)
    if prediction == "velocity":
        return torch.ones_like(total_B)
    raise _unknown_prediction(prediction)


def loss_weight(config: DiffusionConfig, prediction: str, signal_B: Tensor, noise_B: Tensor) -> Tensor:
    """The factor (B,) on the squared error of the output.

    none: 1. velocity: the squared error of the implied velocity is what counts; 1 / noise^2 for x0 on a flow;
    divisors are at least `weight_floor`, 0.05 making 400 the largest weight.
    min-snr: min(SNR, gamma) times the squared error of the implied x_0 (Hang et al. 2023, section 3.4), whatever
    the prediction: min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v on a diffusion.
    """
    if config.weighting == "none":
        return torch.ones_like(signal_B)
    if config.weighting == "velocity":
        return _velocity_gain(prediction, signal_B, noise_B, config.weight_floor) ** 2
    clean_gain_B = _velocity_gain(prediction, signal_B, noise_B, 0.0) * noise_B / (signal_B + noise_B)
    return ((signal_B / noise_B) ** 2).clamp(max=config.min_snr_gamma) * clean_gain_B**2


def draw_timesteps(config: DiffusionConfig, batch: int, generator: torch.Generator) -> Tensor:
    """Timesteps (B,), float32 on the network's scale and the generator's device: integers for a diffusion.

    Stratified: one from each of B equally likely parts of the distribution, in random order, so that a timestep
    is not tied to a place in the batch. Logit-normal: Esser et al. 2024, section 3.1.
    """
    device = generator.device
    part_B = torch.rand(batch, generator=generator, device=device)
    if config.stratified:
        part_B = (torch.randperm(batch, generator=generator, device=device) + part_B) / batch
    if config.timestep_sampling == "logit-normal":
        part_B = torch.sigmoid(config.logit_mean + config.logit_std * torch.special.ndtri(part_B))
    if config.process == "flow":
        return part_B.clamp(FLOW_MARGIN, 1 - FLOW_MARGIN) * config.timesteps
    return (part_B * config.timesteps).floor().clamp(max=config.timesteps - 1)


def _unknown_prediction(prediction: str) -> UsageError:
    return UsageError(f"unknown prediction {prediction!r}", "known: " + ", ".join(PREDICTIONS))
