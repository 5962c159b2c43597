"""The host waits for a GPU once a step; what a GPU decides by itself is what the host would have decided."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from training_runs import digest, run

from ditkit import optim
from ditkit.config import OptimConfig
from ditkit.data.batches import Batch
from ditkit.ema import Ema, PowerEmas
from ditkit.events import Finished, Stepped, Warned
from ditkit.kernels import update as updating
from ditkit.kernels.choice import EAGER
from ditkit.kernels.update import WeightUpdate
from ditkit.models.dit import DiT
from ditkit.objectives.contract import open_objective
from ditkit.runtime.distributed import ProcessGroup
from ditkit.training import loop, setup
from ditkit.training import step as training_step
from ditkit.training.step import SpeedOptions, StepContext, compute_gradients

META = torch.device("meta")
OFF = SpeedOptions(kernels="off")


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights change as on CUDA, before the host knows the loss."""
    real = setup.WeightUpdate
    monkeypatch.setattr(setup, "WeightUpdate", lambda *given, **_: real(*given, ahead=True))


def spoil(monkeypatch: pytest.MonkeyPatch, at: int, what: str) -> None:
    """Give a step a gradient that is not finite, or a loss that is a spike or not finite."""
    original = training_step.compute_gradients

    def spoiled(context, step, *others):
        result = original(context, step, *others)
        if step == at:
            if what == "gradient":
                next(context.network.parameters()).grad.fill_(math.inf)
            else:
                result.loss_B.mul_(math.nan if what == "loss" else 1000)
        return result

    monkeypatch.setattr(loop, "compute_gradients", spoiled)


def test_gradients_of_a_step_make_the_host_wait_for_nothing(tiny, monkeypatch):
    """Tensors on `meta` have no numbers: whoever asks for one gets an error."""
    monkeypatch.setattr(training_step, "autocast", lambda device, dtype: contextlib.nullcontext())
    config = tiny()
    with META:
        network = DiT(config.model, channels=1, size=(28, 28), classes=10)
    context = StepContext(
        config=config,
        network=network,
        objective=open_objective(config.diffusion),
        device=META,
        compute=EAGER,
        group=ProcessGroup(),
        micro_batches=2,
    )
    batch = Batch(torch.zeros(16, 1, 28, 28), torch.zeros(16, dtype=torch.int64), {})
    result = compute_gradients(context, 3, batch, "noise", lambda: [False, True], pytest.fail)
    assert result.loss_B.shape == (16,) and result.loss_B.is_meta and result.raised_F.is_meta
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_host_waits_once_a_step_and_after_the_update_was_given_to_the_device(tiny, tmp_path, monkeypatch, ahead):
    heard = []
    real = updating.fetch

    def fetch(tensors):
        heard.append("copy")
        wait = real(tensors)
        return lambda: heard.append("wait") or wait()

    monkeypatch.setattr(updating, "fetch", fetch)
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: heard.append("AdamW") or step(self))
    run(tiny(train={"steps": 2}), tmp_path / "r", speed=OFF)
    assert heard == ["copy", "AdamW", "wait"] * 2


def update_of(tiny, *, ahead: bool, scale: float = 1.0) -> WeightUpdate:
    torch.manual_seed(0)
    network = DiT(tiny().model, channels=1, size=(28, 28), classes=10)
    source = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=source) * scale
    averages = PowerEmas(network, (0.05,))
    return WeightUpdate(network, optim.adamw(network, OptimConfig()), Ema(network, 0.9), averages, 1.0, ahead=ahead)


@pytest.mark.parametrize("scale", [1.0, 1e-3], ids=["clipped", "below the limit"])
def test_a_device_clips_and_updates_by_itself_as_the_host_does(tiny, scale):
    updates = [update_of(tiny, ahead=ahead, scale=scale) for ahead in (True, False)]
    for update in updates:
        seen = update.measure(0.01, torch.ones(4), torch.tensor([0.0, 2.0]), math.inf)
        assert (seen.loss, seen.flags) == (1.0, [False, True]) and (seen.norm > 1) == (scale == 1.0)
        update(0.01, seen.norm, 1)
        assert not hasattr(update.optimizer, "found_inf")
    for one, other in zip(*(update.network.parameters() for update in updates), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    for one, other in zip(*(update.ema.network.parameters() for update in updates), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    # Of one step AdamW's weights say little: it divides by the size of the gradients.
    for one, other in zip(*(update.optimizer.state.values() for update in updates), strict=True):
        torch.testing.assert_close(one["exp_avg"], other["exp_avg"], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("most", [1.0, math.nextafter(1.0, 0)])
def test_the_device_compares_a_loss_as_finely_as_the_host(tiny, most):
    update = update_of(tiny, ahead=True)
    before = [parameter.detach().clone() for parameter in update.network.parameters()]
    update.measure(0.01, torch.ones(4), torch.zeros(0), most)
    same = all(torch.equal(a, b) for a, b in zip(before, update.network.parameters(), strict=True))
    assert same == (most < 1.0)
    steps = {float(state["step"]) for state in update.optimizer.state.values()}
    assert steps == {0.0 if same else 1.0}


@pytest.mark.parametrize("what", ["gradient", "loss", "spike"])
def test_a_step_that_the_device_skips_changes_nothing(tiny, tmp_path, monkeypatch, ahead, what):
    spoil(monkeypatch, 55, what)
    config = tiny(train={"steps": 57, "save_every": 50, "sample_every": 57, "validate_every": 57})
    run(config, tmp_path / "r", stop_after=55, speed=OFF)
    before = digest(tmp_path / "r")
    listener = run(config, tmp_path / "r", stop_after=56, speed=OFF)
    assert "step 56 is skipped" in listener.of(Warned)[-1].text
    assert digest(tmp_path / "r")["optimizer.safetensors"] == before["optimizer.safetensors"]
    listener = run(config, tmp_path / "r", speed=OFF)
    assert listener.of(Finished)[0].reason == "done" and math.isfinite(listener.of(Stepped)[-1].loss)


def test_a_report_of_divergence_has_the_gradients_as_they_were(tiny, tmp_path, monkeypatch, ahead):
    """Clipped by a norm that is not finite they would all be 0 or not a number."""
    spoil(monkeypatch, 3, "gradient")
    norms = []
    monkeypatch.setattr(
        loop,
        "skip_step",
        lambda session, *_: norms.extend(float(p.grad.norm()) for p in session.trainable.network.parameters()),
    )
    run(tiny(train={"steps": 4}), tmp_path / "r", speed=OFF)
    assert norms[0] == math.inf and all(0 < norm < math.inf for norm in norms[1:])
