"""ProcessGroup: rank, broadcast, gather, barrier, all-reduce."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DataError
from .launch import launched, note_joined

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .watchdog import Watchdog

T = TypeVar("T")
_FOR_EVER = timedelta(days=100)  # the first process may work while the others wait; who is gone, the board notices


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place among all."""

    rank: int = 0
    size: int = 1
    watchdog: Watchdog | None = None  # of several

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def shard(self, total: int) -> slice:
        """This process's part of `total` things in a row; the parts of all processes make up the whole."""
        return slice(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def all_reduce_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one device and dtype by their sums over all processes."""
        if self.size == 1:
            return
        import torch.distributed

        flat = torch.cat([one.reshape(-1) for one in tensors])
        torch.distributed.all_reduce(flat)
        for one, part in zip(tensors, flat.split([one.numel() for one in tensors]), strict=True):
            one.copy_(part.view_as(one))

    def broadcast(self, value: T) -> T:
        """The first process's value, on all."""
        if self.size == 1:
            return value
        import torch.distributed

        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, in their order, on all."""
        if self.size == 1:
            return [value]
        import torch.distributed

        box: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(box, value)
        return box

    def require_same(self, value: str, what: str) -> None:
        """Raise DataError, the same in all, if the processes do not all have the same."""
        values = self.all_gather(value)
        other = next((rank for rank, one in enumerate(values) if one != values[0]), None)
        if other is not None:
            raise DataError(f"process {other} has other {what} than process 0", f"give all of them the same {what}")

    def uninterruptible(self) -> contextlib.AbstractContextManager[None]:
        """While inside, this process is not ended because another has failed."""
        return self.watchdog.uninterruptible() if self.watchdog else contextlib.nullcontext()

    def barrier(self) -> None:
        """Wait, however long, until all processes are here. Raises DitkitError when one of them fails."""
        if self.watchdog:
            self.watchdog.barrier()


@contextlib.contextmanager
def join(device: str) -> Iterator[tuple[ProcessGroup, torch.device]]:
    """This process among those that were launched with it, alone when none were, and its device by that name.

    What goes wrong inside ends all of them. The first that fails raises what it is; the others raise PeerError.
    """
    import torch.distributed

    from .device import find_device
    from .watchdog import open_watchdog

    rank, size = launched()
    if size == 1:
        yield ProcessGroup(), find_device(device)
        return
    board, store = open_watchdog(rank, size)
    note_joined()
    with board.watched():
        try:
            where = find_device(device)
            _connect(where, rank, size, store)
            yield ProcessGroup(rank, size, board), where
        except BaseException as error:
            told = board.report_failure(error)
            if told is error:
                raise
            raise told from error
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def _connect(device: torch.device, rank: int, size: int, store: Any) -> None:
    import torch.distributed

    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=_FOR_EVER,
        device_id=device if device.type == "cuda" else None,
    )


@dataclass(frozen=True)
class Together:
    """This process among all; what one of them cannot do ends all, with its own words said once."""

    world: ProcessGroup | None = None  # None: there is only this one

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return self.world.rank if self.world else 0

    @property
    def size(self) -> int:
        """How many there are."""
        return self.world.size if self.world else 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """The leading process's value, in all."""
        return self.world.broadcast(value) if self.world else value

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, in their order, in all."""
        return self.world.all_gather(value) if self.world else [value]

    def run_together(self, work: Callable[[], T]) -> T:
        """What the work gives, once it has succeeded in every process."""
        done = work()
        if self.world:
            self.world.barrier()
        return done


SINGLE_PROCESS = Together()
