"""Which device is taken; the GPUs here are pretended."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import torch
from platforms import as_windows

from ditkit.data.resident import BatchTarget, batch_target, decoding_threads
from ditkit.errors import MachineError, UsageError
from ditkit.runtime import device
from ditkit.runtime.device import find_device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_of_several_processes_takes_its_own_gpu(name: str, two_gpus: None, monkeypatch: pytest.MonkeyPatch):
    assert find_device(name) == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert find_device(name) == torch.device(f"cuda:{rank}")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(MachineError, match="there is no cuda:2: torch sees 2") as caught:
        find_device(name)
    assert caught.value.hint == "start at most 2 processes on this machine"
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(MachineError) as caught:
        find_device("cuda:2")
    assert caught.value.hint == "use cuda:0"


def test_a_process_that_sees_one_gpu_of_its_own_takes_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    with pytest.raises(MachineError, match="there is no cuda:1: torch sees 1"):
        find_device("auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find_device("auto") == torch.device("cuda:0")


def test_one_device_is_refused_for_several_processes(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="cuda:1 is one device for 2 processes"):
        find_device("cuda:1")


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_WORLD_SIZE"])
def test_an_environment_that_makes_no_sense_is_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "two")
    with pytest.raises(UsageError, match=f"^{name} in the environment is not a number"):
        find_device("cpu")


def test_the_most_memory_so_far_is_known_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    as_windows(monkeypatch, device)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda process: SimpleNamespace(peak_wset=300 << 20))
    assert device.memory_mb(torch.device("cpu")) == 300


def test_images_are_resized_on_the_cpu_for_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    on_mps = SimpleNamespace(device=torch.device("mps"), cpu=lambda: "on the CPU")
    asked: list[tuple[object, object]] = []

    def interpolate(image, size, **how):
        asked.append((image, how["antialias"]))
        return SimpleNamespace(to=lambda device: device)

    monkeypatch.setattr(device.functional, "interpolate", interpolate)
    assert device.resized(on_mps, (2, 2), "bilinear") == on_mps.device
    assert asked == [("on the CPU", True)]


def test_several_processes_do_not_take_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto") == torch.device("mps")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert find_device("auto") == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(MachineError, match="no cuda device"):
        find_device("cuda")


def test_a_data_set_may_take_a_quarter_of_what_is_free_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = torch.device("cuda:1"), torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6 << 30, 24 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 << 30)
    threads = min(16, torch.get_num_threads())
    assert batch_target(gpu, workers=0) == BatchTarget(gpu, most_bytes=2 << 30, threads=threads)
    assert (decoding_threads(gpu, 20), decoding_threads(cpu, 2)) == (20, 2)
    assert batch_target(gpu, workers=2) == BatchTarget(gpu)
    assert batch_target(cpu, workers=0) == BatchTarget()
    assert (BatchTarget(gpu).pins, BatchTarget(cpu).pins) == (True, False)
