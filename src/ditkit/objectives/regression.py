"""The plain objective: squared error of one prediction, weighted by the noise level (Ho et al. 2020, algorithm 1).

B batch, C channels, H W image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import DiffusionConfig
from .contract import Network, draw_timesteps, from_clean_and_noise, loss_weight, over_image, process_of


class Regression:
    """Squared error of a network that predicts `prediction`; the Objective of epsilon, v, x0 and velocity."""

    def __init__(self, prediction: str, config: DiffusionConfig):
        self.prediction = prediction
        self.process = process_of(config)
        self._config = config

    def draw_timesteps(self, batch: int, generator: torch.Generator) -> Tensor:
        return draw_timesteps(self._config, batch, generator)

    def loss_at(
        self, network: Network, x_BCHW: Tensor, label_B: Tensor, timestep_B: Tensor, noise_BCHW: Tensor
    ) -> Tensor:
        signal_B, noise_B = self.process.signal_noise(timestep_B)
        signal, noise = over_image(signal_B), over_image(noise_B)
        # Float32 from here on: under autocast the output is bfloat16, too coarse for a squared error.
        output_BCHW = network(signal * x_BCHW + noise * noise_BCHW, timestep_B, label_B).float()
        return self.weighted_error(output_BCHW, x_BCHW, noise_BCHW, signal_B, noise_B)

    def weighted_error(
        self, output_BCHW: Tensor, x_BCHW: Tensor, noise_BCHW: Tensor, signal_B: Tensor, noise_B: Tensor
    ) -> Tensor:
        """Squared error (B,) of an output against the target that x and noise give, weighted; mean over C, H, W."""
        target_BCHW = from_clean_and_noise(
            self.prediction, x_BCHW, noise_BCHW, over_image(signal_B), over_image(noise_B)
        )
        weight_B = loss_weight(self._config, self.prediction, signal_B, noise_B)
        return weight_B * (output_BCHW - target_BCHW).square().mean(dim=(1, 2, 3))
