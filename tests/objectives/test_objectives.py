from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from platforms import NoFloat64
from torch import Tensor

from ditkit.config import DiffusionConfig
from ditkit.errors import UsageError
from ditkit.objectives import tables
from ditkit.objectives.contract import (
    FLOW_MARGIN,
    PREDICTIONS,
    Process,
    from_clean_and_noise,
    loss_weight,
    open_objective,
    over_image,
    process_of,
    to_clean_and_noise,
)
from ditkit.registry import OBJECTIVES
from ditkit.runtime.noise import draw_noise_and_timesteps

PROCESSES = ("diffusion", "flow")
WEIGHTINGS = ("none", "min-snr", "velocity")


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _process(kind: str, timesteps: int = 1000) -> Process:
    return Process(kind=kind, timesteps=timesteps, beta_start=1e-4, beta_end=2e-2)


def _fitting(name: str) -> list[DiffusionConfig]:
    """The configs of an objective, one for each process that it takes."""
    configs = []
    for kind in PROCESSES:
        with contextlib.suppress(UsageError):
            configs.append(DiffusionConfig(process=kind, objective=name))
    assert configs, f"objective {name} takes neither process"
    return configs


EVERY_OBJECTIVE = [config for name in OBJECTIVES.names() for config in _fitting(name)]
_named = {"ids": lambda config: f"{config.objective}-{config.process}"}


class Knowing:
    """A network that knows image and noise, and so gives the perfect output; `off` is added to it."""

    def __init__(self, process: Process, prediction: str, x_BCHW: Tensor, noise_BCHW: Tensor, off: float | Tensor = 0):
        self.process, self.prediction, self.off = process, prediction, off
        self.x_BCHW, self.noise_BCHW = x_BCHW, noise_BCHW

    def __call__(self, x_t_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
        signal, noise = (over_image(value_B) for value_B in self.process.signal_noise(timestep_B))
        torch.testing.assert_close(x_t_BCHW, signal * self.x_BCHW + noise * self.noise_BCHW)
        return from_clean_and_noise(self.prediction, self.x_BCHW, self.noise_BCHW, signal, noise) + self.off


def _case(config: DiffusionConfig, batch: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = _generator()
    x_BCHW = torch.rand(batch, 2, 3, 4, generator=generator) * 2 - 1
    noise_BCHW = torch.randn(x_BCHW.shape, generator=generator)
    timestep_B = open_objective(config).draw_timesteps(batch, generator)
    return x_BCHW, torch.zeros(batch, dtype=torch.int64), timestep_B, noise_BCHW


@pytest.mark.parametrize("kind", PROCESSES)
def test_signal_and_noise_powers_match_the_closed_form(kind):
    process = _process(kind)
    timestep_B = torch.tensor([0.0, 1, 10, 500, 999]) if kind == "diffusion" else torch.tensor([1.0, 250, 999.5])
    signal_B, noise_B = process.signal_noise(timestep_B)
    if kind == "flow":
        torch.testing.assert_close(noise_B, timestep_B / 1000)
        torch.testing.assert_close(signal_B + noise_B, torch.ones(3))
    else:
        abar = [math.prod(1 - (1e-4 + (2e-2 - 1e-4) * i / 999) for i in range(int(t) + 1)) for t in timestep_B]
        torch.testing.assert_close(signal_B, torch.tensor(abar).sqrt())
        torch.testing.assert_close(signal_B**2 + noise_B**2, torch.ones(5))


def test_the_first_diffusion_timestep_has_the_noise_of_beta_one_and_the_last_is_nearly_pure_noise():
    process = _process("diffusion")
    signal_B, noise_B = process.signal_noise(torch.tensor([0.0, 999.0]))
    assert noise_B[0].item() == pytest.approx(math.sqrt(1e-4), rel=1e-4)
    assert signal_B[1].item() < 0.01


@pytest.mark.parametrize("kind", PROCESSES)
def test_noised_unit_data_has_the_power_that_the_closed_form_says(kind):
    config = DiffusionConfig(process=kind, objective="epsilon")
    generator = _generator()
    x_BCHW, noise_BCHW = torch.randn(2, 4, 1, 100, 100, generator=generator)
    x_BCHW = x_BCHW * 0.5
    seen: list[Tensor] = []

    def network(x_t_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
        seen.append(x_t_BCHW.var(dim=(1, 2, 3)))
        return x_t_BCHW

    timestep_B = torch.tensor([0.0, 100, 500, 900])
    open_objective(config).loss_at(network, x_BCHW, torch.zeros(4).long(), timestep_B, noise_BCHW)
    signal_B, noise_B = process_of(config).signal_noise(timestep_B)
    # Relative standard error of a variance from 10,000 values: sqrt(2 / 10,000) = 1.4 %.
    torch.testing.assert_close(seen[0], 0.25 * signal_B**2 + noise_B**2, rtol=0.06, atol=0)


@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_gives_back_the_image_and_the_noise_it_was_made_from(prediction, kind):
    process = _process(kind)
    x_BCHW, noise_BCHW = torch.randn(2, 60, 1, 4, 4, generator=_generator(), dtype=torch.float64)
    timestep_B = torch.linspace(1, 999, 60)
    signal, noise = (over_image(value_B).double() for value_B in process.signal_noise(timestep_B))
    output = from_clean_and_noise(prediction, x_BCHW, noise_BCHW, signal, noise)
    clean, eps = to_clean_and_noise(prediction, output, signal * x_BCHW + noise * noise_BCHW, signal, noise)
    torch.testing.assert_close(clean, x_BCHW)
    torch.testing.assert_close(eps, noise_BCHW)


def test_velocity_is_the_derivative_of_the_straight_path_and_v_that_of_the_circular_one():
    x, eps = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-1.2, dtype=torch.float64)
    angle, step = torch.tensor(0.7, dtype=torch.float64), 1e-6
    straight = ((1 - (0.7 + step)) * x + (0.7 + step) * eps - ((1 - 0.7) * x + 0.7 * eps)) / step
    circular = (
        torch.cos(angle + step) * x + torch.sin(angle + step) * eps - (angle.cos() * x + angle.sin() * eps)
    ) / step
    signal, noise = angle.cos(), angle.sin()
    torch.testing.assert_close(from_clean_and_noise("velocity", x, eps, signal, noise), straight, rtol=1e-5, atol=0)
    torch.testing.assert_close(from_clean_and_noise("v", x, eps, signal, noise), circular, rtol=1e-5, atol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("config", EVERY_OBJECTIVE, **_named)
def test_the_loss_at_a_perfect_prediction_is_zero_and_elsewhere_is_not(config, weighting):
    config = replace(config, weighting=weighting)
    objective = open_objective(config)
    x_BCHW, label_B, timestep_B, noise_BCHW = _case(config)
    timestep_B = timestep_B.clamp(min=1)  # learned-sigma's term at t = 0 is the likelihood of 8-bit pixels
    perfect = Knowing(objective.process, objective.prediction, x_BCHW, noise_BCHW)
    wrong = Knowing(objective.process, objective.prediction, x_BCHW, noise_BCHW, off=0.1)

    def output(network: Knowing):
        if config.objective != "learned-sigma":
            return network
        return lambda *inputs: torch.cat([network(*inputs), -torch.ones_like(x_BCHW)], dim=1)

    loss_B = objective.loss_at(output(perfect), x_BCHW, label_B, timestep_B, noise_BCHW)
    assert loss_B.shape == (8,) and loss_B.dtype == torch.float32
    torch.testing.assert_close(loss_B, torch.zeros(8), atol=1e-6, rtol=0)
    wrong_B = objective.loss_at(output(wrong), x_BCHW, label_B, timestep_B, noise_BCHW)
    assert (wrong_B > 1e-6).all()
    if weighting == "none" and config.objective != "learned-sigma":
        torch.testing.assert_close(wrong_B, torch.full((8,), 0.01))


@pytest.mark.parametrize("config", EVERY_OBJECTIVE, **_named)
@pytest.mark.parametrize("batch", [1, 7])
def test_loss_is_per_sample_repeatable_and_leaves_the_global_random_state_alone(config, batch):
    objective = open_objective(config)
    x_BCHW, label_B, _, _ = _case(config, batch)
    channels = 2 if config.objective == "learned-sigma" else 1
    weight = torch.full((1,), 0.1, requires_grad=True)

    def network(x_t_BCHW, timestep_B, label_B):
        return (x_t_BCHW * weight).repeat(1, channels, 1, 1)

    before = torch.get_rng_state()
    cases = [draw_noise_and_timesteps(objective, x_BCHW.shape, seed, "noise", 0) for seed in (5, 5, 6)]
    first_B, again_B, other_B = (objective.loss_at(network, x_BCHW, label_B, *case) for case in cases)
    assert torch.equal(torch.get_rng_state(), before)
    assert first_B.shape == (batch,) and torch.equal(first_B, again_B) and not torch.equal(first_B, other_B)
    first_B.mean().backward()
    assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.abs().sum() > 0


@pytest.mark.parametrize("sampling", ["uniform", "logit-normal"])
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_stratified_flow_timesteps_put_exactly_one_in_each_stratum(sampling, batch):
    config = DiffusionConfig(timestep_sampling=sampling, logit_mean=-0.4, logit_std=1.3, timesteps=500)
    timestep_B = open_objective(config).draw_timesteps(batch, _generator(1))
    part_B = timestep_B.double() / 500
    if sampling == "logit-normal":
        part_B = torch.special.ndtr((torch.logit(part_B) + 0.4) / 1.3)
    assert sorted((part_B * batch).long().tolist()) == list(range(batch))


def test_stratified_diffusion_timesteps_are_integers_one_per_stratum_reaching_both_ends():
    config = DiffusionConfig(process="diffusion", objective="epsilon", timesteps=40)
    timestep_B = open_objective(config).draw_timesteps(40, _generator())
    assert sorted(timestep_B.tolist()) == list(range(40)) and timestep_B.dtype == torch.float32
    assert timestep_B.tolist() != sorted(timestep_B.tolist())


def test_no_place_in_the_batch_is_tied_to_a_timestep():
    objective = open_objective(DiffusionConfig())
    generator = _generator()
    first = torch.stack([objective.draw_timesteps(8, generator)[0] for _ in range(400)])
    assert first.mean().item() == pytest.approx(500, abs=5 * 289 / 20)
    assert first.std().item() == pytest.approx(289, rel=0.15)


def test_timesteps_that_are_not_stratified_are_independent():
    objective = open_objective(DiffusionConfig(stratified=False))
    counts = [(objective.draw_timesteps(8, _generator(seed)) / 125).long().unique().numel() for seed in range(20)]
    assert min(counts) < 8


@pytest.mark.parametrize("config", EVERY_OBJECTIVE, **_named)
def test_no_timestep_has_zero_noise_or_no_signal(config):
    for sampling in ("uniform", "logit-normal"):
        objective = open_objective(replace(config, timestep_sampling=sampling, logit_std=10))
        timestep_B = objective.draw_timesteps(20_000, _generator())
        signal_B, noise_B = objective.process.signal_noise(timestep_B)
        assert noise_B.min() >= 0.999 * FLOW_MARGIN and signal_B.min() >= 0.999 * FLOW_MARGIN
        assert timestep_B.min() >= 0 and timestep_B.max() <= 999


_MIN_SNR = DiffusionConfig(weighting="min-snr", min_snr_gamma=5)
_VELOCITY = DiffusionConfig(weighting="velocity")


@pytest.mark.parametrize("config", EVERY_OBJECTIVE, **_named)
def test_a_min_snr_loss_is_the_clipped_snr_times_the_error_of_the_implied_image(config):
    config = replace(config, weighting="min-snr", min_snr_gamma=5)
    objective = open_objective(config)
    x_BCHW, label_B, timestep_B, noise_BCHW = _case(config)
    off = 0.01 * torch.randn(x_BCHW.shape, generator=_generator(3))
    network = Knowing(objective.process, objective.prediction, x_BCHW, noise_BCHW, off)
    signal_B, noise_B = objective.process.signal_noise(timestep_B)
    weight_B = loss_weight(config, objective.prediction, signal_B, noise_B)
    loss_B = weight_B * off.square().mean(dim=(1, 2, 3))
    if config.objective != "learned-sigma":
        torch.testing.assert_close(
            objective.loss_at(network, x_BCHW, label_B, timestep_B, noise_BCHW), loss_B, rtol=1e-2, atol=0
        )
    signal, noise = over_image(signal_B), over_image(noise_B)
    x_t_BCHW = signal * x_BCHW + noise * noise_BCHW
    implied, _ = to_clean_and_noise(
        objective.prediction, network(x_t_BCHW, timestep_B, label_B), x_t_BCHW, signal, noise
    )
    expected_B = ((signal_B / noise_B) ** 2).clamp(max=5) * (implied - x_BCHW).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss_B, expected_B, rtol=1e-2, atol=1e-9)


def test_min_snr_weights_are_the_papers():
    signal_B, noise_B = _process("diffusion").signal_noise(torch.tensor([0.0, 20, 100, 400, 999]))
    snr_B = (signal_B / noise_B) ** 2
    clipped_B = snr_B.clamp(max=5)
    assert (snr_B > 5).any() and (snr_B < 5).any()
    torch.testing.assert_close(loss_weight(_MIN_SNR, "x0", signal_B, noise_B), clipped_B)
    torch.testing.assert_close(loss_weight(_MIN_SNR, "epsilon", signal_B, noise_B), clipped_B / snr_B)
    torch.testing.assert_close(loss_weight(_MIN_SNR, "v", signal_B, noise_B), clipped_B / (snr_B + 1))


def test_the_velocity_weight_is_one_over_noise_squared_for_x0_on_a_flow_and_is_bounded():
    signal_B, noise_B = _process("flow").signal_noise(torch.tensor([1.0, 50, 100, 500, 999]))
    weight_B = loss_weight(_VELOCITY, "x0", signal_B, noise_B)
    torch.testing.assert_close(weight_B, torch.tensor([400.0, 400, 100, 4, 1 / 0.999**2]))
    assert torch.equal(loss_weight(_VELOCITY, "velocity", signal_B, noise_B), torch.ones(5))
    assert loss_weight(_VELOCITY, "epsilon", signal_B, noise_B).max() <= 400.1
    higher = replace(_VELOCITY, weight_floor=0.25)
    torch.testing.assert_close(loss_weight(higher, "x0", signal_B, noise_B), weight_B.clamp(max=16))


@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_velocity_weighting_measures_the_error_of_the_implied_velocity(prediction, kind):
    process = _process(kind)
    timestep_B = torch.tensor([150.0, 300, 500])  # away from the ends, where the weight is bounded
    x_BCHW, noise_BCHW, off = torch.randn(3, 3, 1, 2, 2, generator=_generator(), dtype=torch.float64)
    signal_B, noise_B = (value_B.double() for value_B in process.signal_noise(timestep_B))
    signal, noise = over_image(signal_B), over_image(noise_B)
    output = from_clean_and_noise(prediction, x_BCHW, noise_BCHW, signal, noise) + off
    clean, eps = to_clean_and_noise(prediction, output, signal * x_BCHW + noise * noise_BCHW, signal, noise)
    velocity_error_B = ((eps - clean) - (noise_BCHW - x_BCHW)).square().mean(dim=(1, 2, 3))
    weight_B = loss_weight(_VELOCITY, prediction, signal_B, noise_B)
    torch.testing.assert_close(weight_B * off.square().mean(dim=(1, 2, 3)), velocity_error_B)


def test_the_schedulers_noise_levels_are_the_processes():
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    process = _process("diffusion")
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=2e-2, beta_schedule="linear")
    signal_B, _ = process.signal_noise(torch.arange(1000))
    torch.testing.assert_close(theirs.alphas_cumprod.sqrt(), signal_B, rtol=1e-4, atol=0)


def test_a_gpu_gets_the_tables_of_the_noise_schedule_once_and_training_may_use_what_sampling_made():
    calls = []

    def made(number: float) -> tuple[np.ndarray, ...]:
        calls.append(number)
        return (np.full(3, number, dtype=np.float32),)

    with torch.inference_mode():
        first = tables.on_device(torch.device("meta"), made, 1.0)
    again = tables.on_device(torch.device("meta"), made, 1.0)
    assert first is again and calls == [1.0] and not first[0].is_inference()
    (cpu,) = tables.on_device(torch.device("cpu"), made, 2.0)
    assert torch.equal(cpu, torch.full((3,), 2.0)) and tables.on_device(torch.device("cpu"), made, 2.0)[0] is not cpu


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("config", EVERY_OBJECTIVE, **_named)
def test_losses_and_gradients_need_no_float64_on_the_device(config: DiffusionConfig, weighting: str):
    channels, objective = (
        1 + (config.objective == "learned-sigma"),
        open_objective(replace(config, weighting=weighting)),
    )
    scale = torch.ones(4, channels, 1, 1, device="meta", requires_grad=True)
    x_BCHW, timestep_B = torch.empty(4, 1, 8, 8, device="meta"), torch.empty(4, device="meta")
    with NoFloat64():
        loss_B = objective.loss_at(
            lambda x_BCHW, *_: x_BCHW * scale, x_BCHW, timestep_B.long(), timestep_B, torch.empty_like(x_BCHW)
        )
        loss_B.sum().backward()
    assert scale.grad is not None
