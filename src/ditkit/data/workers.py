"""Worker processes that prepare batches: torch's DataLoader, made to survive signals to the process group.

Ctrl-C and SIGTERM reach every process of the group. The workers ignore them: the training process alone decides,
finishes its step and ends them.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Collection, Generator, Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ..config import DataConfig
from ..errors import DataError, DitkitError
from ..registry import DATASETS
from .batches import Batch, Batches

_ENDLESS = 2**40  # steps
_CHECK_EVERY = 2.0  # seconds: whether the workers are alive
_GRACE = 0.5  # seconds in which workers may end by themselves


def iterate(batches: Batches, start_step: int, config: DataConfig) -> Generator[Batch, None, None]:
    """The batches of start_step, start_step + 1, … from `data.workers` processes, or from a thread for 0 of them."""
    return batches.iterate(start_step) if config.workers == 0 else _from_processes(batches, start_step, config)


def lost_a_worker(error: BaseException) -> bool:
    """Whether torch reports that a worker died, hangs or is out of reach, which it can do in the middle of anything."""
    reports = ("DataLoader", "Communication with the workers")
    return isinstance(error, RuntimeError) and any(part in str(error) for part in reports)


def _from_processes(batches: Batches, start_step: int, config: DataConfig) -> Generator[Batch, None, None]:
    others = set(multiprocessing.active_children())
    with _signals_blocked(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more than there are cores: as configured
        loader = DataLoader(
            _Steps(batches.without_cache()),
            batch_size=None,
            sampler=range(start_step, _ENDLESS),
            num_workers=config.workers,
            worker_init_fn=begin,
            timeout=_CHECK_EVERY,
            pin_memory=batches.pins,
            multiprocessing_context=_start(config.worker_start),
            generator=torch.Generator(),  # else it would draw from the global one
        )
        ready = _started(loader)
    workers = set(multiprocessing.active_children()) - others
    try:
        yield from _received(ready, workers, config.worker_timeout)
    finally:
        _end(ready, workers)


def _start(word: str) -> str | None:
    """How processes are started; None leaves it to Python, also where a run comes from a system with other ways."""
    return word if word in multiprocessing.get_all_start_methods() else None


def _started(loader: DataLoader[Any]) -> Any:
    """The iterator of a loader, whose workers run. Raises DataError for a data set that cannot be sent to them."""
    try:
        return iter(loader)
    except Exception as error:
        why = str(error.__cause__ or error.__context__ or error)  # torch's own words lead away from the data set
        if not re.search("pickle|local object", why):
            raise
        raise DataError(
            f"the data set cannot be sent to worker processes ({why.splitlines()[0]})",
            "define its classes at the top of a module, or use --set data.workers=0",
        ) from None


def _end(ready: Any, workers: Collection[BaseProcess]) -> None:
    """End the workers, within a second also those that hang.

    torch does this when the iterator is deleted, which a traceback may prevent, and waits five seconds for each.
    """
    ending = threading.Thread(target=ready._shutdown_workers, daemon=True)
    ending.start()
    ending.join(_GRACE)
    for worker in workers:
        if worker.is_alive():
            worker.kill()
    ending.join()
    for worker in workers:
        worker.join()


def _received(
    ready: Iterator[Batch | DitkitError], workers: Collection[BaseProcess], patience: float
) -> Iterator[Batch]:
    """The batches as they come. torch checks its workers only when a wait is over: so the waits are short."""
    waited = 0.0
    with contextlib.closing(_Watchdog(workers, patience + 2 * _CHECK_EVERY)) as watchdog:
        while True:
            try:
                with watchdog.watching():
                    batch = next(ready)
            except (ConnectionError, EOFError):  # what a killed worker had begun to send
                raise RuntimeError(f"DataLoader workers gave no batch for {patience:g} seconds") from None
            except RuntimeError as error:
                waited += _CHECK_EVERY
                if "timed out" not in str(error) or waited >= patience:
                    raise
                continue
            waited = 0.0
            if isinstance(batch, DitkitError):
                raise batch
            yield batch


class _Watchdog:
    """Kills workers that hang while they hand over a batch: torch itself would wait for them without end."""

    def __init__(self, workers: Collection[BaseProcess], patience: float):
        self._workers, self._patience = workers, patience
        self._waits_since = math.inf
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        self._waits_since = time.monotonic()
        try:
            yield
        finally:
            self._waits_since = math.inf

    def _watch(self) -> None:
        while not self._closed.wait(timeout=1.0):
            if time.monotonic() - self._waits_since > self._patience:
                for worker in self._workers:
                    worker.kill()
                return

    def close(self) -> None:
        self._closed.set()


class _PlugIns:
    """Data sets from files that were added in this process: in a worker they are imported when this is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _import_plug_ins, (DATASETS.added(),)


def _import_plug_ins(files: tuple[Path, ...]) -> None:
    DATASETS.load_files(files)


class _Steps(TorchDataset):
    """Step to batch; an error travels as a value, because torch would rewrite it."""

    def __init__(self, batches: Batches):
        self._plug_ins = _PlugIns()  # the first that a worker reads: it needs them to read the rest
        self._batches = batches

    def __getitem__(self, step: int) -> Batch | DitkitError:
        try:
            return self._batches.batch(step)
        except DitkitError as error:
            return error


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Signals are held back, here and in the processes started inside, which inherit that.

    They would end a new process that is still importing, and its parent would go on writing to it forever.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else it starts inside, and lets the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(worker: int) -> None:
    """In a new worker: leave signals to the training process, and end when it ends."""
    for number in _signals():
        signal.signal(number, signal.SIG_IGN)
    # A spawned process would tear down the interpreter while torch's threads still send batches, and abort.
    atexit.register(os._exit, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """torch's own check watches whatever parent it finds: if the real one was killed before, it would wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _signals() -> list[signal.Signals]:
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK", "SIGUSR1", "SIGUSR2")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]
