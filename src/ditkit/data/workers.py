"""Processes that prepare batches: torch's DataLoader, made to outlive what a signal does to a process group.

Ctrl-C and SIGTERM reach every process of a group, and the workers first. They ignore them: the training process alone
decides, finishes its step and ends them.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Generator
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ..config import DataConfig
from ..errors import DataError
from .batches import Batch, Batches

_ENDLESS = 2**40  # steps


def iterate(batches: Batches, start_step: int, config: DataConfig) -> Generator[Batch, None, None]:
    """The batches of start_step, start_step + 1, … from `data.workers` processes, or from a thread for 0 of them."""
    return batches.iterate(start_step) if config.workers == 0 else _from_processes(batches, start_step, config)


def lost_a_worker(error: BaseException) -> bool:
    """Whether torch says that a worker has died or answers no more: it can say so in the middle of anything."""
    return isinstance(error, RuntimeError) and "DataLoader" in str(error)


def _from_processes(batches: Batches, start_step: int, config: DataConfig) -> Generator[Batch, None, None]:
    loader = DataLoader(
        _Steps(batches.without_cache()),
        batch_size=None,
        sampler=range(start_step, _ENDLESS),
        num_workers=config.workers,
        worker_init_fn=ignore_signals,
        timeout=config.worker_timeout,
        multiprocessing_context=None if config.worker_start == "auto" else config.worker_start,
        generator=torch.Generator(),  # else it would draw from the global one
    )
    others = set(multiprocessing.active_children())
    ready: Any = iter(loader)
    try:
        for batch in ready:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    finally:
        # What torch does when the iterator is gone, which a traceback may keep alive. Workers that hang ignore the
        # signal that it sends at last.
        ready._shutdown_workers()
        for worker in set(multiprocessing.active_children()) - others:
            worker.join(timeout=0.1)
            if worker.is_alive():
                worker.kill()
                worker.join()


class _Steps(TorchDataset):
    """Step to batch; an error travels as a value, because torch would rewrite it."""

    def __init__(self, batches: Batches):
        self._batches = batches

    def __getitem__(self, step: int) -> Batch | DataError:
        try:
            return self._batches.batch(step)
        except DataError as error:
            return error


def ignore_signals(worker: int) -> None:
    """Leave signals to the training process."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        signal.signal(number, signal.SIG_IGN)
