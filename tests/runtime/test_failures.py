"""Errors of torch and of the system on any machine, told as what they are."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from ditkit.errors import MachineError
from ditkit.runtime import device
from ditkit.runtime.failures import explained, is_out_of_memory

NO_MEMORY = {
    "Linux": "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
    "Windows": "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to",
    "macOS": "MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18.1 GB). Tried to allocate 1.2 GB",
    "CUDA": "CUDA error: out of memory",
    "cuBLAS": "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN": "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "C++": "std::bad_alloc",
    "C++ on Windows": "bad allocation",
}


@pytest.mark.parametrize("text", NO_MEMORY.values(), ids=NO_MEMORY)
def test_no_memory_is_known_however_it_is_said(text: str) -> None:
    error = explained(RuntimeError(text))
    assert isinstance(error, MachineError) and error.message == "out of memory"
    assert not is_out_of_memory(ValueError(text))


@pytest.mark.parametrize("text", ["CUDA error: device-side assert triggered", "cuDNN error: CUDNN_STATUS_BAD_PARAM"])
def test_other_errors_of_a_gpu_are_not_taken_for_it(text: str) -> None:
    assert not is_out_of_memory(RuntimeError(text)) and explained(RuntimeError(text)) is None


@pytest.mark.parametrize(
    ("number", "message", "hint"),
    [(errno.ENOMEM, "out of memory", "--batch-size"), (errno.EMFILE, "too many open files", "ulimit -n")],
)
def test_what_the_system_has_no_more_of_is_not_looked_for_on_the_disk(number: int, message: str, hint: str) -> None:
    error = explained(OSError(number, os.strerror(number)))
    assert isinstance(error, MachineError) and error.message == message and hint in str(error.hint)


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError(
            "The operator 'aten::x' is not currently implemented for the MPS device. If you want this op"
        ),
        TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please"),
    ],
)
def test_what_torch_cannot_do_on_mps_is_no_bug_of_ditkit(error: Exception) -> None:
    known = explained(error)
    assert isinstance(known, MachineError) and "torch cannot do this on mps: " in known.message
    assert "--device cpu" in str(known.hint) and len(known.message) < 120


@pytest.mark.parametrize("kind", ["cuda", "mps", "cpu"])
def test_after_memory_ran_out_the_cache_of_the_device_is_given_back(kind: str, monkeypatch) -> None:
    emptied: list[str] = []
    for module in (torch.cuda, torch.mps):
        monkeypatch.setattr(module, "empty_cache", lambda name=module.__name__: emptied.append(name))
    device.give_back(torch.device(kind))
    assert emptied == ([] if kind == "cpu" else [f"torch.{kind}"])
