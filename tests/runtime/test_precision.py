"""Precision is decided in one place, and alike in all processes; the GPUs are pretended."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from training_runs import run

from ditkit import recipes
from ditkit.errors import UsageError
from ditkit.estimation import activations
from ditkit.estimation.memory import RunSetup, memory_needed
from ditkit.kernels.choice import choose, choose_to_draw
from ditkit.kernels.for_run import agreed_dtype, choose_for_run
from ditkit.runs.folder import RunFolder
from ditkit.runs.run_state import State
from ditkit.runtime import device
from ditkit.runtime.device import find_dtype
from ditkit.runtime.distributed import ProcessGroup
from ditkit.training.step import SpeedOptions

CPU, GPU, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture
def precision(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What torch is told, on a GPU that computes in bfloat16."""
    told: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", told.append)
    monkeypatch.setattr(device, "computes_bfloat16", lambda device: True)
    return told


def continued(**fields) -> State:
    nouns = {"step": 1, "metrics_bytes": 0, "timing_bytes": 0, "fingerprint": "", "labels": (), "versions": {}}
    return State(**nouns, **fields)


@pytest.mark.parametrize(
    "how",
    [
        lambda config, device: choose(config, device),
        lambda config, device: choose_to_draw(config, device, "auto", "auto"),
        lambda config, device: choose_for_run(config, device, "auto", SpeedOptions(), None, ProcessGroup()),
        lambda config, device: choose_for_run(
            config, device, "auto", SpeedOptions(), continued(kernels=True), ProcessGroup()
        ),
    ],
    ids=["estimate, lr-find", "drawing, judging", "training", "training that goes on"],
)
def test_float32_is_tf32_on_cuda_in_all_commands(tiny, precision, how):
    how(tiny(), GPU)
    assert precision == ["high"]
    precision.clear()
    choose(tiny(), CPU, kernels="off")
    assert precision == []


def test_processes_on_different_gpus_send_weights_in_the_wider_dtype(precision, monkeypatch):
    assert agreed_dtype("auto", GPU, ProcessGroup()) == torch.bfloat16
    monkeypatch.setattr(ProcessGroup, "all_gather", lambda self, value: [value, torch.float32])
    assert agreed_dtype("auto", GPU, ProcessGroup()) == torch.float32


def test_what_memory_made_one_process_split_all_split_from_the_next_checkpoint_on(tiny, tmp_path, monkeypatch):
    def all_gather(self, value):
        return [value, 4 if type(value) is int else value]

    monkeypatch.setattr(ProcessGroup, "all_gather", all_gather)
    run(tiny(train={"steps": 1}), tmp_path / "r", speed=SpeedOptions(kernels="off"))
    assert json.loads((RunFolder(tmp_path / "r").checkpoint(1) / "state.json").read_text())["parts"] == 4


def test_bfloat16_on_mps_needs_macos_14(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: major <= 14)
    assert find_dtype("bfloat16", MPS) == torch.bfloat16
    assert find_dtype("auto", MPS) == torch.float32
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: major <= 13)
    with pytest.raises(UsageError, match="macOS 14"):
        find_dtype("bfloat16", MPS)


def test_memory_is_counted_on_the_type_of_device_that_trains(tiny, monkeypatch):
    counted, real = [], activations._counted

    def count(config, labels, step, device):
        counted.append(device.type)
        if device.type != "cpu":
            raise RuntimeError("PyTorch is not linked with support for cuda devices")
        return real(config, labels, step, device)

    monkeypatch.setattr(activations, "_counted", count)
    monkeypatch.setattr("ditkit.estimation.memory.free_bytes", lambda device: 0)
    config = tiny(model={"width": 40})
    on_gpu = memory_needed(RunSetup(config=config, labels=10, images=0, device=GPU), 1)
    assert counted == ["cuda", "cpu"] * 2
    assert on_gpu.activations == memory_needed(RunSetup(config=config, labels=10, images=0), 1).activations


def test_gradients_that_are_exchanged_take_memory_too():
    setup = RunSetup(config=recipes.load("mnist"), labels=10, images=0)
    alone, several = memory_needed(setup, 1), memory_needed(dataclasses.replace(setup, processes=2), 1)
    assert (alone.exchange, several.exchange) == (0, several.weights)
