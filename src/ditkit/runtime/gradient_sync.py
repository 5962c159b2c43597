"""Gradients added up over all processes, bucket by bucket, while backward still computes the rest of them.

Our own, over torch.distributed: DistributedDataParallel rebuilds its buckets after the first step, so that a resumed
run would differ in the last bits, and it cannot repeat a backward that ran out of memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch.distributed
from torch import Tensor, nn

_BUCKET = 25 << 20  # bytes: large enough for a link's full speed, small enough to begin early


class GradientSync:
    """Sums over all processes of the gradients of some parameters, which every process computes for its share.

    All processes send buckets in the same order, that in which backward comes to them. When the last part of a share
    has to be computed again, because memory ran out, what is sent stays: the sum over the share is the same.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket_bytes: int = _BUCKET):
        self._buckets = _buckets(parameters, bucket_bytes)
        self._missing: list[int] | None = None  # gradients that a bucket waits for; None: not in the last part
        self._sent: list[tuple[Tensor, Any]] = []
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(partial(self._ready, number))

    def start(self, *, last: bool) -> None:
        """Call before each backward of a step; the gradients of the last one are sent."""
        self._missing = [len(bucket) for bucket in self._buckets] if last else None

    def wait(self) -> None:
        """Wait until all gradients are the sums."""
        while len(self._sent) < len(self._buckets):
            self._send()
        for bucket, (flat, work) in zip(self._buckets, self._sent, strict=True):
            work.wait()
            for parameter, part in zip(bucket, flat.split([weights.numel() for weights in bucket]), strict=True):
                if parameter.grad is not None:
                    parameter.grad.copy_(part.view_as(parameter))
        self._missing, self._sent = None, []

    def _ready(self, number: int, _parameter: Tensor) -> None:
        if self._missing is None:
            return
        self._missing[number] -= 1
        while len(self._sent) < len(self._buckets) and self._missing[len(self._sent)] == 0:
            self._send()

    @torch.no_grad()
    def _send(self) -> None:
        bucket = self._buckets[len(self._sent)]
        pieces = [torch.zeros_like(weights) if weights.grad is None else weights.grad for weights in bucket]
        flat = torch.cat([piece.reshape(-1) for piece in pieces])
        self._sent.append((flat, torch.distributed.all_reduce(flat, async_op=True)))


def _buckets(parameters: Iterable[nn.Parameter], most: int) -> list[list[nn.Parameter]]:
    """The parameters from the last to the first, a bucket holding `most` bytes or one parameter."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in reversed(list(parameters)):
        size = parameter.numel() * parameter.element_size()
        if size > room:
            buckets.append([])
            room = most
        buckets[-1].append(parameter)
        room -= size
    return buckets
