"""EMA warm-up, learning-rate schedules, clipping and seeds in closed form."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from ditkit.config import OptimConfig
from ditkit.ema import Ema, decay_at
from ditkit.optim import adamw, clip, learning_rate, norm, set_rate
from ditkit.seeding import generator, stream_seed


def test_the_ema_has_forgotten_its_initialisation_early():
    remaining = math.prod(decay_at(step, 0.9999) for step in range(1, 1001))
    assert remaining < 1e-15  # without the warm-up 0.9999^1000 = 90 % of it would be left
    assert decay_at(10**9, 0.9999) == 0.9999


def test_the_ema_is_the_average_in_closed_form():
    network = nn.Linear(3, 2)
    ema = Ema(network, 0.9)
    expected = network.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            network.weight.add_(step)
        ema.update(network, step)
        decay = min(0.9, step / (step + 9))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    assert torch.allclose(ema.network.weight, expected)
    assert not ema.network.weight.requires_grad


@pytest.mark.parametrize(("schedule", "middle", "end"), [("constant", 1, 1), ("linear", 0.5, 0), ("cosine", 0.5, 0)])
def test_schedules_warm_up_then_fall(schedule, middle, end):
    config = OptimConfig(lr=0.01, schedule=schedule, warmup_steps=10)
    rates = [learning_rate(config, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[9] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(0.01)
    assert rates[60] == pytest.approx(0.01 * middle)
    assert rates[110] == pytest.approx(0.01 * end, abs=1e-12)
    assert all(first >= second for first, second in itertools.pairwise(rates[9:]))


def test_weight_decay_spares_biases_norms_and_embeddings():
    network = nn.Sequential(nn.Embedding(4, 8), nn.Linear(8, 8), nn.LayerNorm(8))
    optimizer = adamw(network, OptimConfig(weight_decay=0.1))
    decayed = [id(one) for group in optimizer.param_groups if group["weight_decay"] for one in group["params"]]
    assert decayed == [id(network[1].weight)]
    set_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


def test_gradients_above_the_limit_are_scaled_to_it_and_others_left_alone():
    network = nn.Linear(2, 1, bias=False)
    network.weight.grad = torch.tensor([[3.0, 4.0]])
    assert float(norm(network)) == pytest.approx(5)
    clip(network, None, torch.tensor(5.0))
    clip(network, 6.0, torch.tensor(5.0))
    assert torch.equal(network.weight.grad, torch.tensor([[3.0, 4.0]]))
    clip(network, 1.0, torch.tensor(5.0))
    assert torch.allclose(network.weight.grad, torch.tensor([[0.6, 0.8]]))


def test_seeds_differ_by_stream_seed_and_position_and_repeat():
    seeds = {stream_seed(seed, stream, at) for seed in (0, 1) for stream in ("noise", "drop") for at in range(500)}
    assert len(seeds) == 2000
    assert max(seeds) < 2**32
    first, again = (torch.randn(4, generator=generator(7, "noise", 3)) for _ in range(2))
    assert torch.equal(first, again)
