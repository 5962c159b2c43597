"""The processes that train one run together, started by torchrun or accelerate launch; usually there is one.

Gradients are added up over all of them in one exchange a step, so that every process takes the same step from the
same numbers. Only the first one touches the run's folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from .errors import DataError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among all."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """This process's part of `total` things in a row; the parts of all processes make up the whole."""
        return slice(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one device and dtype by their sums over all processes."""
        if self.size == 1:
            return
        flat = torch.cat([one.reshape(-1) for one in tensors])
        torch.distributed.all_reduce(flat)
        for one, part in zip(tensors, flat.split([one.numel() for one in tensors]), strict=True):
            one.copy_(part.view_as(one))

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.size > 1:
            for one in tensors:
                torch.distributed.broadcast(one, src=0)

    def tell(self, value: T) -> T:
        """The first process's value, on all."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def collect(self, value: T) -> list[T]:
        """The values of all processes, in their order, on all."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(box, value)
        return box

    def check_same(self, value: str, what: str) -> None:
        """Raise DataError if the processes do not all have the same."""
        others = [rank for rank, one in enumerate(self.collect(value)) if one != value]
        if others:
            raise DataError(
                f"process {self.rank} has other {what} than process {others[0]}", f"give all of them the same {what}"
            )


def launched() -> tuple[int, int]:
    """Rank and number of processes, as the launcher says in the environment; torch need not be there."""
    try:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise UsageError("RANK or WORLD_SIZE in the environment is not a number", "unset them") from None
    return (rank, size) if size > 1 else (0, 1)


@contextlib.contextmanager
def join(device: torch.device) -> Iterator[World]:
    """This process among those that were launched with it; alone when none were."""
    rank, size = launched()
    if size == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=size)
    try:
        yield World(rank, size)
    finally:
        torch.distributed.destroy_process_group()
