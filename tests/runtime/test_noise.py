"""Noise is a function of seed, stream and step, whatever computes; runs of before keep theirs."""

from __future__ import annotations

import json

import pytest
import torch
from training_runs import change_state, digest, run

from ditkit.events import Warned
from ditkit.objectives.contract import open_objective
from ditkit.runs.folder import RunFolder
from ditkit.runtime import noise
from ditkit.runtime.noise import NoiseSource, draw_noise_and_timesteps

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that are sent to a GPU stay here."""
    monkeypatch.setattr(noise, "send", lambda tensor, device: tensor)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())


def test_a_gpu_gets_the_noise_of_a_cpu_bit_for_bit(tiny, gpu):
    config = tiny()
    objective = open_objective(config.diffusion)
    whole = NoiseSource(config, objective, slice(None), CPU)
    second = NoiseSource(config, objective, slice(8, 16), GPU)
    # In order, then back to an earlier step with another stream, as after a rollback, and on.
    for stream, step in [("noise", 0), ("noise", 1), ("noise", 2), ("noise/1", 0), ("noise/1", 1), ("noise", 7)]:
        expected, drawn = whole.at(stream, step), second.at(stream, step)
        wanted = draw_noise_and_timesteps(objective, (16, 1, 28, 28), config.seed, stream, step)
        assert torch.equal(expected[0], wanted[0]) and torch.equal(expected[2], wanted[1])
        assert torch.equal(drawn[0], expected[0])
        assert torch.equal(drawn[1], expected[1][8:16]) and torch.equal(drawn[2], expected[2][8:16])


def test_it_is_drawn_in_advance_by_other_threads(tiny, gpu, monkeypatch):
    import threading

    drawn, real = [], noise.draw_noise_and_timesteps

    def draw(*given):
        drawn.append((given[4], threading.current_thread().name.partition("_")[0], given[5]))
        return real(*given)

    monkeypatch.setattr(noise, "draw_noise_and_timesteps", draw)
    config = tiny()
    source = NoiseSource(config, open_objective(config.diffusion), slice(None), GPU)
    for step in range(3):
        source.at("noise", step)
    assert {0, 1, 2} <= {step for step, _, _ in drawn} <= {0, 1, 2, 3, 4}
    assert {(thread, device) for _, thread, device in drawn} == {("ditkit-noise", CPU)}


def test_a_run_that_an_earlier_ditkit_began_on_a_gpu_draws_there(tiny, gpu, monkeypatch):
    devices = []

    def generator(seed, stream, step, device="cpu"):
        devices.append(str(device))
        return

    monkeypatch.setattr(noise, "generator", generator)
    monkeypatch.setattr(torch, "randn", lambda shape, generator, device: torch.empty(shape))
    config = tiny()
    objective = open_objective(config.diffusion)
    monkeypatch.setattr(objective, "draw_timesteps", lambda batch, generator: torch.zeros(batch), raising=False)
    NoiseSource(config, objective, slice(None), GPU, on_device=True).at("noise", 3)
    assert devices == ["cpu", "cuda"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"noise": None, "device": "cuda:0"}, "device"),
        ({"noise": None, "device": "mps"}, "device"),
        ({"noise": None}, "cpu"),
        ({"noise": "device", "device": "cpu"}, "device"),
        ({"noise": "cpu", "device": "cuda"}, "cpu"),
        ({}, "cpu"),
    ],
)
def test_a_checkpoint_says_where_noise_is_drawn_and_a_run_keeps_it(tiny, tmp_path, before, after):
    run(tiny(train={"steps": 3}), tmp_path / "r", stop_after=1)
    change_state(tmp_path / "r", **before)
    warned = run(tiny(train={"steps": 3}), tmp_path / "r").of(Warned)
    state = json.loads((RunFolder(tmp_path / "r").checkpoint(3) / "state.json").read_text())
    assert state["noise"] == after
    other = "draws other noise" if after == "device" else "may differ in the last bits"
    moved = before.get("device", "cpu") != "cpu"
    assert [other in event.text for event in warned] == ([True] if moved else [])


def test_another_model_of_gpu_is_said(tiny, tmp_path, monkeypatch):
    run(tiny(train={"steps": 3}), tmp_path / "r", stop_after=1)
    monkeypatch.setattr("ditkit.training.session.gpu_model", lambda device: {"gpu": "H200"})
    state = json.loads((RunFolder(tmp_path / "r").checkpoint(1) / "state.json").read_text())
    change_state(tmp_path / "r", versions={**state["versions"], "gpu": "T4"}, noise="device")
    (warning,) = run(tiny(train={"steps": 3}), tmp_path / "r").of(Warned)
    assert warning.text == "gpu T4 is now H200: the run goes on, but draws other noise"


def test_what_a_run_on_another_type_of_device_split_and_compiled_is_not_taken_over(tiny, tmp_path):
    run(tiny(train={"steps": 3}), tmp_path / "straight")
    run(tiny(train={"steps": 3}), tmp_path / "r", stop_after=1)
    change_state(tmp_path / "r", device="cuda", parts=8, compiled=True, noise="cpu")
    run(tiny(train={"steps": 3}), tmp_path / "r")
    state = json.loads((RunFolder(tmp_path / "r").checkpoint(3) / "state.json").read_text())
    assert (state["parts"], state["compiled"]) == (1, False)
    names = ("ema.safetensors", "model.safetensors", "optimizer.safetensors")
    ends = [digest(tmp_path / name) for name in ("straight", "r")]
    assert [ends[0][name] for name in names] == [ends[1][name] for name in names]
    run(tiny(train={"steps": 4}), tmp_path / "same", stop_after=1)
    change_state(tmp_path / "same", parts=8)
    run(tiny(train={"steps": 4}), tmp_path / "same", stop_after=2)
    state = json.loads((RunFolder(tmp_path / "same").checkpoint(2) / "state.json").read_text())
    assert state["parts"] == 8
