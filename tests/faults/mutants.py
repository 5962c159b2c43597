"""ditkit with one protection switched off: each must make a harness find losses, or the harness proves nothing."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from typing import Any

from pytest import MonkeyPatch


def prune_first(patch: MonkeyPatch) -> None:
    """The old checkpoints go before the new one is there."""
    from ditkit.checkpoint import store

    save = store.save

    def save_after_pruning(folder: Any, **what: Any) -> Any:
        for step in folder.checkpoint_steps():
            shutil.rmtree(folder.checkpoint(step))
        return save(folder, **what)

    patch.setattr(store, "save", save_after_pruning)


def in_place(patch: MonkeyPatch) -> None:
    """A checkpoint is written under its own name."""
    from ditkit.io import atomic

    write, rename = atomic.write_synced, atomic.rename

    def write_there(path: Any, content: bytes) -> Any:
        name = path.parent.name
        if name.startswith(".tmp-step-"):
            path = path.parent.with_name(name[5:17]) / path.name
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)
        return write(path, content)

    patch.setattr(atomic, "write_synced", write_there)
    patch.setattr(atomic, "rename", lambda old, new: None if ".tmp-step-" in str(old) else rename(old, new))


def longer_metrics_stay(patch: MonkeyPatch) -> None:
    """What a killed run wrote after its last checkpoint is not cut off."""
    from ditkit.runs.metrics import MetricsFile

    patch.setattr(MetricsFile, "cut", lambda self, length: None)


def litter_stays(patch: MonkeyPatch) -> None:
    """Nobody removes what a crash left behind."""
    from ditkit.checkpoint import store
    from ditkit.runs import folder
    from ditkit.training import setup

    for module in (folder, store, setup):
        patch.setattr(module, "remove_leftovers", lambda folder: None)


def flock(patch: MonkeyPatch) -> None:
    """The lock is one that workers inherit, and these do not end with the training process."""
    from ditkit.data import workers

    patch.setattr(workers, "_end_with_parent", lambda: None)
    patch.setattr(fcntl, "lockf", fcntl.flock)


def workers_heed_signals(patch: MonkeyPatch) -> None:
    """Workers end when the process group gets a signal, and the training process takes that for a fault.

    It may have its next batch already and stop in peace before the system has ended them, so that it waits for that.
    """
    from ditkit.data import workers
    from ditkit.runtime.signals import StopRequest

    def stops_after_its_workers(request: StopRequest) -> bool:
        if request.signal is not None:
            time.sleep(20)  # torch raises out of it when a worker has ended
        return request.signal is not None

    patch.setattr(StopRequest, "__call__", stops_after_its_workers)
    patch.setattr(workers, "_signals_blocked", contextlib.nullcontext)
    patch.setattr(workers, "begin", None)
    patch.setattr(workers, "lost_a_worker", lambda error: False)


def workers_begin_slowly(patch: MonkeyPatch) -> None:
    """No protection off: a worker takes a second until it can look after itself."""
    from ditkit.data import workers

    begin = workers.begin

    def begin_slowly(worker: int) -> None:
        time.sleep(1)
        begin(worker)

    patch.setattr(workers, "begin", begin_slowly)


def workers_outlive(patch: MonkeyPatch) -> None:
    """Workers leave it to torch to notice that the training process has gone, which it looks at now and then."""
    from torch.utils.data._utils import worker

    from ditkit.data import workers

    patch.setattr(worker, "MP_STATUS_CHECK_INTERVAL", 600.0)
    patch.setattr(workers, "_end_with_parent", lambda: None)
    workers_begin_slowly(patch)


def any_sum(patch: MonkeyPatch) -> None:
    """Nobody compares the sums of a manifest."""
    from ditkit.runs import manifest

    patch.setattr(manifest, "describe", lambda content: Anything())


class Anything:
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def slow_disk(patch: MonkeyPatch) -> None:
    """No protection off: every file of a checkpoint takes half a second."""
    from ditkit.io import atomic

    write = atomic.write_synced

    def write_slowly(path: Any, content: bytes) -> Any:
        time.sleep(0.5)
        return write(path, content)

    patch.setattr(atomic, "write_synced", write_slowly)


def a_file_goes(patch: MonkeyPatch) -> None:
    """No protection off: from the seventh step on the images cannot be read."""
    from ditkit.data.batches import Batches
    from ditkit.errors import DataError

    batch = Batches.batch

    def batch_or_fail(self: Any, step: int) -> Any:
        if step >= 6:
            raise DataError("cannot read cat.png", "replace it")
        return batch(self, step)

    patch.setattr(Batches, "batch", batch_or_fail)
