"""Copies to and from a device; the GPU is pretended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ditkit.runtime.transfer import answers, fetch, send

CUDA, MPS, CPU = (torch.device(name) for name in ("cuda", "mps", "cpu"))


class Traced:
    """A tensor of the host that notes how it is copied."""

    is_cuda = False

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def pin_memory(self) -> Traced:
        self.calls.append("pinned")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> Traced:
        self.calls.append((device.type, non_blocking))
        return self


@pytest.mark.parametrize(
    ("device", "calls"),
    [(CUDA, ["pinned", ("cuda", True)]), (MPS, [("mps", False)]), (CPU, [("cpu", False)])],
)
def test_only_cuda_copies_while_the_host_goes_on_and_from_pinned_memory(device, calls):
    tensor = Traced()
    send(tensor, device)  # type: ignore[arg-type]
    assert tensor.calls == calls


def test_what_is_on_a_gpu_already_is_not_pinned():
    tensor = Traced()
    tensor.is_cuda = True
    send(tensor, CUDA)  # type: ignore[arg-type]
    assert tensor.calls == [("cuda", False)]


def test_tensors_of_the_host_are_fetched_as_they_are():
    tensors = [torch.ones(3), torch.tensor(2.0, dtype=torch.float64)]
    assert all(a is b for a, b in zip(fetch(tensors)(), tensors, strict=True))


class Event:
    """A CUDA event that is reached after some questions."""

    questions = 0

    def record(self, stream: object) -> None:
        pass

    def query(self) -> bool:
        if Event.questions < 0:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        Event.questions -= 1
        return Event.questions <= 0


@pytest.mark.parametrize(("questions", "expected"), [(2, True), (10**9, False), (-1, False)])
def test_a_device_that_hangs_or_has_failed_does_not_answer(questions, expected, monkeypatch):
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(Event=Event, current_stream=lambda device: None))
    Event.questions = questions
    assert answers(CUDA, 0.3) is expected
    assert answers(CPU, 0)
