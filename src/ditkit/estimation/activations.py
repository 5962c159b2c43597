"""A training step run on fake tensors, which have shapes and neither memory nor content, to count live bytes.

What autograd keeps, what is temporary and when each is freed is decided by the same code that trains, so that this
stays right when that code changes.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..checkpoint.loading import build_network
from ..config import RunConfig
from ..models.dit import DiT
from ..objectives.contract import open_objective
from ..runtime.device import autocast

_DEPTHS = (1, 2)  # blocks of the networks that are run; every further one adds the same


class LiveTensorBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made within it that live at once; `peak` is the most so far."""

    def __init__(self, ignored: Iterable[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._ignored = {_identity(tensor) for tensor in ignored}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes or key in self._ignored:
            return
        self._sizes[key] = storage.nbytes()
        self.now += self._sizes[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _identity(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@lru_cache(maxsize=256)
def activation_bytes(
    config: RunConfig, labels: int, images: int, dtype: torch.dtype, *, again: bool, device_type: str = "cpu"
) -> int:
    """Most bytes that forward and backward of `images` images take at once, gradients included.

    `again`: the gradients of another part of the batch are there already. What autocast computes in float32, and how
    attention is computed, depends on the type of device.
    """

    def step(network: DiT, device: torch.device) -> tuple[int, int]:
        objective, tensors = open_objective(config.diffusion), _case(config, images, device)
        with LiveTensorBytes([*network.parameters(), *network.buffers()]) as live:
            for parameter in network.parameters() if again else ():
                parameter.grad = torch.empty_like(parameter)
            with autocast(device, dtype):
                loss_B = objective.loss_at(network, *tensors)
            forward = live.now
            loss_B.sum().backward()
        return forward, live.peak

    forward, peak = _at_full_depth(config, labels, step, device_type)
    return max(forward, peak)


@lru_cache(maxsize=16)
def sampling_bytes(config: RunConfig, labels: int, images: int, dtype: torch.dtype, device_type: str = "cpu") -> int:
    """Most bytes that the network takes while it draws `images` images; guidance doubles them."""
    twice = images * (2 if config.sample.guidance != 1 else 1)

    def step(network: DiT, device: torch.device) -> tuple[int]:
        x_BCHW, label_B, timestep_B, _ = _case(config, twice, device)
        with torch.no_grad(), LiveTensorBytes([*network.parameters(), *network.buffers()]) as live:
            network(x_BCHW, timestep_B, label_B)
        return (live.peak,)

    return max(_at_full_depth(config, labels, step, device_type))


def _case(config: RunConfig, images: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x_BCHW, label_B = torch.empty(images, *config.shape, device=device), torch.zeros(images, device=device)
    return x_BCHW, label_B.long(), torch.ones(images, device=device), torch.empty_like(x_BCHW)


Step = Callable[[DiT, torch.device], tuple[int, ...]]


def _at_full_depth(config: RunConfig, labels: int, step: Step, device_type: str) -> list[int]:
    """The bytes that `step` counts on a type of device, or on a CPU where fake tensors cannot be on that one."""
    try:
        return _counted(config, labels, step, torch.device(device_type))
    except RuntimeError:
        if device_type == "cpu":
            raise
        return _counted(config, labels, step, torch.device("cpu"))


def _counted(config: RunConfig, labels: int, step: Step, device: torch.device) -> list[int]:
    """The bytes that `step` counts, read off two shallow networks: a few blocks are as good as many, and faster."""
    counts = []
    for depth in dict.fromkeys(min(depth, config.model.depth) for depth in _DEPTHS):
        shallow = dataclasses.replace(config, model=dataclasses.replace(config.model, depth=depth))
        with FakeTensorMode(), device:
            counts.append((depth, step(build_network(shallow, labels), device)))
    (low, fewer), (high, more) = counts[0], counts[-1]
    blocks = (config.model.depth - low) / max(high - low, 1)
    return [round(least + blocks * (most - least)) for least, most in zip(fewer, more, strict=True)]
