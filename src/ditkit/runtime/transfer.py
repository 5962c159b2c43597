"""Copies between the host and a device, made so that neither waits for the other where the device allows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_POLL = 0.05  # seconds


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device.

    CUDA copies it from pinned memory, in its turn, while the host goes on. Only CUDA: MPS may read memory that was
    given to another tensor meanwhile.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetch(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Begin one copy of some float32 tensors of a device to the host; the function that is returned waits for them.

    CUDA copies them in their turn: what is queued after this call is computed while the host waits, and afterwards.
    """
    device = tensors[0].device
    if device.type == "cpu":
        return lambda: list(tensors)
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    arriving, event = flat.to("cpu", non_blocking=device.type == "cuda"), None
    if device.type == "cuda":
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))

    def wait() -> list[Tensor]:
        if event is not None:
            event.synchronize()
        parts = arriving.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    return wait


def answers(device: torch.device, seconds: float) -> bool:
    """Whether a device finishes within so many seconds what it was given; CUDA may wait for a lost process for ever."""
    if device.type != "cuda":
        return True
    limit = time.monotonic() + seconds
    try:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))
        while not event.query():
            if time.monotonic() > limit:
                return False
            time.sleep(_POLL)
    except RuntimeError:  # an error of what was computed before
        return False
    return True
