"""The learning-rate finder: repeatable, usable, and without a trace."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ditkit.errors import DitkitError
from ditkit.estimation.lr_finder import find_lr, read_curve
from ditkit.events import Validated
from ditkit.training.loop import train


@pytest.fixture(scope="module")
def curve():
    """One sweep on the real digits."""
    return find_lr(small(), device="cpu")


def small(seed: int = 0):
    from ditkit import recipes

    return recipes.load(
        "mnist",
        {
            "data": {"validation": 64},
            "model": {"patch": 7, "width": 48, "depth": 2, "heads": 2},
            "optim": {"schedule": "constant", "warmup_steps": 0},
            "train": {"batch_size": 32, "steps": 80, "validate_every": 20, "sample_every": 80, "sample_columns": 1},
            "sample": {"steps": 1},
            "seed": seed,
        },
    )


def check(curve):
    """The suggestion is half the rate of the lowest loss, and that is not the rate at which it blew up."""
    assert curve.suggestion == curve.lowest / 2 and curve.lowest < max(curve.rates)
    assert curve.lowest == curve.rates[int(np.argmin(curve.smoothed))] and curve.configured == small().optim.lr
    assert len(curve.rates) == len(curve.losses) == len(curve.smoothed)


def test_the_suggestion_lies_below_the_lowest_loss_and_that_below_divergence(curve):
    check(curve)


@pytest.mark.slow
def test_the_suggestion_varies_by_less_than_a_factor_of_three_over_seeds(curve):
    curves = [curve, *(find_lr(small(seed), device="cpu") for seed in range(1, 5))]
    suggestions = [curve.suggestion for curve in curves]
    assert max(suggestions) / min(suggestions) < 3, suggestions
    for each in curves:
        check(each)


@pytest.mark.slow
def test_the_suggestion_trains_as_well_as_a_third_and_three_times_of_it(curve, tmp_path):
    config = small()

    def validation_losses(rate: float) -> list[float]:
        seen = []
        listen = lambda event: seen.append(event.loss) if isinstance(event, Validated) else None  # noqa: E731
        chosen = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=rate))
        train(chosen, tmp_path / f"{rate:.3g}", listen, device="cpu")
        return seen

    suggested = validation_losses(curve.suggestion)
    assert all(np.isfinite(suggested))
    for factor in (1 / 3, 3):
        assert suggested[-1] < 1.02 * validation_losses(curve.suggestion * factor)[-1]


def test_the_sweep_leaves_no_trace(tmp_path):
    before = torch.get_rng_state()
    seen = []
    find_lr(small(), device="cpu", steps=30, warmup=2, on_step=lambda *step: seen.append(step))
    assert torch.equal(before, torch.get_rng_state())
    assert list(tmp_path.iterdir()) == []
    assert [(step, steps) for step, steps, _, _ in seen] == [(step, 30) for step in range(1, len(seen) + 1)]


def test_the_lowest_loss_is_found_in_a_known_curve():
    rates = np.logspace(-6, 0, 120)
    position = np.log10(rates)
    losses = 0.2 + 0.8 / (1 + np.exp(6 * (position + 3))) + np.exp(np.clip(12 * (position + 1), -50, 5))
    curve = read_curve(list(rates), list(losses))
    assert 5e-3 < curve.lowest < 0.05


def test_noise_that_never_falls_is_an_error():
    with pytest.raises(DitkitError, match="no learning rate lowered the loss"):
        read_curve(list(np.logspace(-6, 0, 50)), list(np.linspace(1, 5, 50)))
    with pytest.raises(DitkitError, match="blew up at once"):
        read_curve([1e-6], [1.0])
