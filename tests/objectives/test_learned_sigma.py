from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ditkit.config import DiffusionConfig
from ditkit.errors import UsageError
from ditkit.objectives import learned_sigma
from ditkit.objectives.contract import Process, open_objective
from ditkit.objectives.learned_sigma import variational_bound


def _process(timesteps: int = 1000) -> Process:
    return Process(kind="diffusion", timesteps=timesteps, beta_start=1e-4, beta_end=2e-2)


def _variances(timesteps: int, t: int) -> tuple[float, float]:
    """Variance of q(x_{t-1} | x_t, x_0), and beta_t, by the definitions."""
    beta = [1e-4 + (2e-2 - 1e-4) * i / (timesteps - 1) for i in range(timesteps)]
    abar = [math.prod(1 - b for b in beta[: i + 1]) for i in range(timesteps)]
    return beta[t] * (1 - abar[t - 1]) / (1 - abar[t]), beta[t]


def test_the_bound_is_the_divergence_of_the_two_reverse_gaussians_in_bits():
    timesteps, t = 10, 4
    process = _process(timesteps)
    x0, eps, guess = 0.25, -0.7, -0.3
    # Both means by Ho et al. 2020, eqs. 7 and 11; the variance half way in the logarithm.
    beta = process.betas()
    abar = np.cumprod(1 - beta)
    x_t = math.sqrt(abar[t]) * x0 + math.sqrt(1 - abar[t]) * eps
    true_mean = (math.sqrt(abar[t - 1]) * beta[t] * x0 + math.sqrt(1 - beta[t]) * (1 - abar[t - 1]) * x_t) / (
        1 - abar[t]
    )
    mean = (x_t - beta[t] / math.sqrt(1 - abar[t]) * guess) / math.sqrt(1 - beta[t])
    true_variance, largest = _variances(timesteps, t)
    variance = math.sqrt(true_variance * largest)
    nats = 0.5 * (math.log(variance / true_variance) + (true_variance + (true_mean - mean) ** 2) / variance - 1)
    image = torch.full((1, 1, 1, 1), x0)
    bound_B = variational_bound(process, image, torch.full_like(image, guess - eps), image * 0, torch.tensor([t]))
    assert bound_B.item() == pytest.approx(nats / math.log(2), rel=1e-4)


def test_the_bound_at_the_first_timestep_is_the_surprise_of_the_pixels_level():
    process = _process()
    scale = math.sqrt(_variances(1000, 1)[0])
    half_level = math.erf(1 / 255 / scale / math.sqrt(2))
    image = torch.tensor([0.2, 1.0]).view(1, 2, 1, 1)
    expected = -(math.log2(half_level) + math.log2((1 + half_level) / 2)) / 2
    for_one = variational_bound(process, image, 0 * image, torch.full_like(image, -1), torch.tensor([0.0]))
    assert for_one.item() == pytest.approx(expected, rel=1e-3)


def test_the_bound_is_scaled_by_timesteps_over_1000_and_teaches_the_variance_only():
    losses, gradients = {}, {}
    for timesteps in (1000, 4000):
        config = DiffusionConfig(process="diffusion", objective="learned-sigma", timesteps=timesteps)
        objective = open_objective(config)
        generator = torch.Generator().manual_seed(0)
        x_BCHW, noise_BCHW = torch.randn(2, 3, 1, 2, 2, generator=generator)
        timestep_B = torch.tensor([3.0, 500, 800])
        output_BCHW = torch.randn(3, 2, 2, 2, generator=generator, requires_grad=True)
        args = (x_BCHW, torch.zeros(3).long(), timestep_B, noise_BCHW)
        loss_B = objective.loss_at(lambda *_, output=output_BCHW: output, *args)
        error_BCHW = (output_BCHW[:, :1] - noise_BCHW).detach()
        bound_B = variational_bound(objective.process, x_BCHW, error_BCHW, output_BCHW[:, 1:], timestep_B)
        losses[timesteps] = (loss_B - error_BCHW.square().mean(dim=(1, 2, 3))) / bound_B
        gradients[timesteps] = torch.autograd.grad(loss_B.sum(), output_BCHW)[0]
        torch.testing.assert_close(gradients[timesteps][:, :1], 2 * error_BCHW / 4)
        assert gradients[timesteps][:, 1:].abs().min() > 0
    torch.testing.assert_close(losses[1000], torch.ones(3), rtol=1e-3, atol=0)
    torch.testing.assert_close(losses[4000], 4 * torch.ones(3), rtol=1e-3, atol=0)


def test_learned_sigma_refuses_a_flow():
    config = DiffusionConfig(process="flow")
    with pytest.raises(UsageError, match="learned-sigma needs a diffusion process"):
        learned_sigma.objective(config)
