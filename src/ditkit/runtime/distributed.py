"""ProcessGroup: rank, broadcast, gather, barrier, all-reduce; imports torch only among several processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DataError
from ..io.progress import LOADING_TORCH, Watch, no_progress
from .launch import launched, note_joined

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .watchdog import Watchdog

T = TypeVar("T")
# The first process may work for hours while the others wait; the watchdog notices a process that is gone.
_NO_TIMEOUT = timedelta(days=100)


@dataclass(frozen=True)
class ProcessGroup:
    """This process among all that were launched together; `ProcessGroup()` is a process alone.

    Every method that exchanges something is a collective: all processes must call it, in the same order, or those
    that do wait for the others.
    """

    rank: int = 0  # from 0
    size: int = 1
    watchdog: Watchdog | None = None  # None: there is only this process

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def shard(self, total: int) -> slice:
        """This process's part of `total` things in a row; the parts of all processes make up the whole."""
        return slice(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def all_reduce_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one device and dtype by their sums over all processes."""
        if self.size == 1:
            return
        import torch.distributed

        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast(self, value: T) -> T:
        """The first process's value, in all."""
        if self.size == 1:
            return value
        import torch.distributed

        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks, in all."""
        if self.size == 1:
            return [value]
        import torch.distributed

        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def require_same(self, value: str, what: str) -> None:
        """Raise DataError, the same in all processes, unless all have the same value."""
        values = self.all_gather(value)
        other = next((rank for rank, gathered in enumerate(values) if gathered != values[0]), None)
        if other is not None:
            raise DataError(f"process {other} has other {what} than process 0", f"give all of them the same {what}")

    def uninterruptible(self) -> contextlib.AbstractContextManager[None]:
        """While inside, this process is not ended because another has failed."""
        return self.watchdog.uninterruptible() if self.watchdog else contextlib.nullcontext()

    def barrier(self) -> None:
        """Wait, however long, until all processes are here. Raises DitkitError when one of them fails."""
        if self.watchdog:
            self.watchdog.barrier()

    def run_together(self, work: Callable[[], T]) -> T:
        """The result of `work`, once it has succeeded in every process; what one cannot do ends all, said once."""
        result = work()
        self.barrier()
        return result


@contextlib.contextmanager
def join_launched(device: str, progress: Watch = no_progress) -> Iterator[ProcessGroup]:
    """As `join`, but torch is imported only if other processes were launched with this one."""
    if launched()[1] == 1:
        yield ProcessGroup()
        return
    with progress(LOADING_TORCH):
        import torch  # noqa: F401
    with join(device) as (group, _):
        yield group


@contextlib.contextmanager
def join(device: str) -> Iterator[tuple[ProcessGroup, torch.device]]:
    """The group of the processes launched with this one, and this process's device of the type `device` ("auto", …).

    What goes wrong inside ends all of them. The first that fails raises what it is; the others raise PeerError.
    """
    import torch.distributed

    from .device import find_device
    from .watchdog import open_watchdog

    rank, size = launched()
    if size == 1:
        yield ProcessGroup(), find_device(device)
        return
    watchdog, store = open_watchdog(rank, size)
    note_joined()
    with watchdog.watched():
        try:
            torch_device = find_device(device)
            _connect(torch_device, rank, size, store)
            yield ProcessGroup(rank, size, watchdog), torch_device
        except BaseException as error:
            reported = watchdog.report_failure(error)
            if reported is error:
                raise
            raise reported from error
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def _connect(device: torch.device, rank: int, size: int, store: Any) -> None:
    import torch.distributed

    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        # torch for Windows has no NCCL; gloo exchanges tensors of GPUs, too, through the host's memory.
        "nccl" if device.type == "cuda" and torch.distributed.is_nccl_available() else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=_NO_TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
