"""A known mixture of Gaussians and the best possible network for it: exact answers to test samplers against."""

from __future__ import annotations

import torch
from torch import Tensor

from ditkit.config import DiffusionConfig
from ditkit.objectives.contract import from_clean_and_noise, over_image, process_of


class Mixture:
    """Three Gaussians in the plane, unequal and not round, with the exact posterior mean under either process."""

    weight_K = torch.tensor([0.3, 0.5, 0.2])
    mean_KD = torch.tensor([[-0.8, -0.3], [0.5, 0.6], [0.6, -0.7]])
    covariance_KDD = torch.tensor(
        [[[0.04, 0.02], [0.02, 0.03]], [[0.05, -0.03], [-0.03, 0.06]], [[0.02, 0.0], [0.0, 0.08]]]
    )

    def mean(self) -> Tensor:
        return self.weight_K @ self.mean_KD

    def covariance(self) -> Tensor:
        off_KD = self.mean_KD - self.mean()
        spread_KDD = self.covariance_KDD + off_KD[:, :, None] * off_KD[:, None, :]
        return (self.weight_K[:, None, None] * spread_KDD).sum(0)

    def denoise(self, x_ND: Tensor, signal: float, noise: float) -> Tensor:
        """E[x_0 | x_t], by Bayes over the components and linear regression within each."""
        noisy_KDD = signal**2 * self.covariance_KDD + noise**2 * torch.eye(2)
        precision_KDD = torch.linalg.inv(noisy_KDD)
        off_KND = x_ND - signal * self.mean_KD[:, None, :]
        scaled_KND = off_KND @ precision_KDD
        distance_KN = (off_KND * scaled_KND).sum(-1)
        logit_KN = (self.weight_K.log() - 0.5 * torch.logdet(noisy_KDD))[:, None] - 0.5 * distance_KN
        guess_KND = self.mean_KD[:, None, :] + signal * scaled_KND @ self.covariance_KDD
        return (torch.softmax(logit_KN, dim=0)[:, :, None] * guess_KND).sum(0)


class ExactNetwork:
    """The best possible network for the mixture; every pixel of a (2, H, W) image is a point of the plane.

    `late` shifts the timestep that it believes in, as a fault in the sampler would.
    """

    def __init__(self, config: DiffusionConfig, late: float = 0):
        self.process, self.prediction, self.late = process_of(config), config.objective, late

    def __call__(self, x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
        assert timestep_B.unique().numel() == 1
        highest = self.process.timesteps - (1 if self.process.kind == "diffusion" else 0)
        signal_B, noise_B = self.process.signal_noise((timestep_B + self.late).clamp(0.5, highest))
        x_ND = x_BCHW.movedim(1, -1).reshape(-1, 2)
        clean_ND = Mixture().denoise(x_ND, signal_B[0].item(), noise_B[0].item())
        batch, _, height, width = x_BCHW.shape
        clean_BCHW = clean_ND.view(batch, height, width, 2).movedim(-1, 1)
        signal, noise = over_image(signal_B), over_image(noise_B)
        eps_BCHW = (x_BCHW - signal * clean_BCHW) / noise
        return from_clean_and_noise(self.prediction, clean_BCHW, eps_BCHW, signal, noise)
