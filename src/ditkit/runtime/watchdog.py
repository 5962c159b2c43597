"""Heartbeats and failures of the processes of a run: when one fails, all end, and one of them reports why.

They are keys of the store through which the processes found each other, watched by a thread: waiting at a barrier has
no time limit, while an exchange of tensors has one, and a process that computes or hangs still notices a failure.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed
from torch.distributed import PrefixStore, rendezvous  # pyright: ignore[reportPrivateImportUsage]

from ..errors import MachineError, PeerError, UsageError
from . import launch
from .failures import explained

GRACE = 30.0  # seconds that a process has to end by itself after another has failed
_SAVING = 600.0  # seconds that it may save for meanwhile
_TICK = 1.0  # seconds between signs of life
_SILENCE = 120  # ticks without one after which a process counts as dead
_WAIT_FOR_PEERS = 10.0  # seconds that the first process waits for the others to leave, if it holds the store
_PATIENCE = timedelta(hours=2)  # until all have started: the first one may download data before


# What NCCL says of this process's own device and use of it; its other errors may come of a process that is gone.
_OWN_FAULT = re.compile("nccl(UnhandledCudaError|InvalidUsage|InvalidArgument)")


class Watchdog:
    """Heartbeats and failures as this process sees and writes them."""

    def __init__(self, store: Any, rank: int, size: int):
        self._store, self._rank, self._size = store, rank, size
        self._meetings = 0
        self._lost: str | None = None  # what the watching thread has noticed
        self._saving = False
        self._left = threading.Event()

    def barrier(self) -> None:
        """Wait, however long, until all processes are here. Raises DitkitError if one of them fails meanwhile."""
        self._meetings += 1
        name, pause = f"meeting/{self._meetings}", 0.001
        self._store.add(name, 1)
        while self._store.add(name, 0) < self._size:
            if self._lost:  # first: the watching thread has reported it as this process's failure
                raise _lost(self._lost)
            if self._failure():
                raise PeerError(self._failure() or 1)
            time.sleep(pause)
            pause = min(2 * pause, 0.1)

    def report_failure(self, error: BaseException) -> BaseException:
        """The error to end with: `error` itself if this process is the first to fail, else a silent PeerError."""
        if is_lost(error):
            error = _lost(str(error))
        failure = f"{self._rank} {_exit_code(error)}"
        try:
            first = self._store.compare_set("failed", "", failure).decode()
        except RuntimeError:  # the process that held the store is gone: rank 0, or the launcher
            speaks = self._rank <= 1 or launch.local_rank() == 0
            return error if speaks else PeerError(_exit_code(error))
        rank, code = (int(word) for word in first.split())
        return error if rank == self._rank else PeerError(code)

    @contextlib.contextmanager
    def uninterruptible(self) -> Iterator[None]:
        """While inside, this process is not ended because another has failed: it saves what it has."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """While inside, this process sends heartbeats, and ends soon after another has failed, even if it hangs."""
        watch = threading.Thread(target=self._watch, name="ditkit-watch", daemon=True)
        watch.start()
        try:
            yield
        finally:
            self._left.set()
            watch.join()
            with contextlib.suppress(RuntimeError):
                self._wait_for_peers()

    def _wait_for_peers(self) -> None:
        # The process that holds the store leaves last: the others still read from it how the run ended.
        gone, limit = self._store.add("left", 1), time.monotonic() + _WAIT_FOR_PEERS
        holds = self._rank == 0 and not launch.holds_store()
        while holds and gone < self._size and time.monotonic() < limit:
            time.sleep(0.01)
            gone = self._store.add("left", 0)

    def _failure(self) -> int | None:
        """The exit code of the process that failed first."""
        return int(self._store.get("failed").decode().split()[1]) if self._store.check(["failed"]) else None

    def _watch(self) -> None:
        neighbour, last, silent, code, reported = (self._rank + 1) % self._size, -1, 0, None, None
        while code is None:
            try:
                self._store.add(f"alive/{self._rank}", 1)
                beats, gone = self._store.add(f"alive/{neighbour}", 0), self._store.check(["left"])
                silent, last = (silent + 1 if beats == last and not gone else 0), beats
                code = self._failure()
                if code is None and silent >= _SILENCE:
                    self._lost = f"process {neighbour} gives no sign of life"
            except RuntimeError as error:
                self._lost = str(error)
            if self._lost:
                reported = self.report_failure(_lost(self._lost))
                code = _exit_code(reported)
            if self._left.wait(_TICK if code is None else GRACE):
                return
        limit = time.monotonic() + _SAVING
        while self._saving and time.monotonic() < limit:
            if self._left.wait(_TICK):
                return
        if isinstance(reported, MachineError):
            os.write(2, f"error: {reported.message}\n".encode())
        os._exit(code)  # the thread that trains hangs in an exchange with a process that is gone


def open_watchdog(rank: int, size: int) -> tuple[Watchdog, Any]:
    """The watchdog of the processes that were launched together, and a store for their exchanges."""
    if os.name == "nt":
        os.environ.setdefault("USE_LIBUV", "0")  # which torch asks for, and is built without there
    try:
        store, _, _ = next(rendezvous("env://", rank, size, timeout=_PATIENCE))
        store = PrefixStore(_agree(store, rank, size), store)
    except ValueError as error:
        raise UsageError(f"the launcher's environment is incomplete: {error}", "start with torchrun") from None
    except RuntimeError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise MachineError(
            f"the processes cannot find each other at {where}: {str(error).splitlines()[0]}",
            "check MASTER_ADDR and MASTER_PORT, and that no firewall is between the machines",
        ) from None
    return Watchdog(PrefixStore("notes", store), rank, size), PrefixStore("exchange", store)


def _agree(store: Any, rank: int, size: int) -> str:
    """A name for this launch that all its processes learn from the first one, once all are there.

    torchrun's store outlives the processes that it starts again, and with it their keys: both its rendezvous handlers
    keep one store for all rounds, and workers open it without a prefix (so in torch 2.13 still).
    TORCHELASTIC_RESTART_COUNT cannot be the prefix: each node's agent counts its own failures, and none where another
    node joined. So each process asks with a word of its own, and the first one answers every word that it finds.
    """
    word = uuid.uuid4().hex
    if rank:
        store.set(f"hello/{rank}", word)
        while not store.check([f"welcome/{word}"]):
            time.sleep(0.02)
        name = store.get(f"welcome/{word}").decode()
        store.add(f"here/{name}", 1)
        return name
    answered: set[str] = set()
    while store.add(f"here/{word}", 0) < size - 1:
        keys = [f"hello/{other}" for other in range(1, size)]
        for other_word in {store.get(key).decode() for key in keys if store.check([key])} - answered:
            store.set(f"welcome/{other_word}", word)
            answered.add(other_word)
        time.sleep(0.02)
    return word


def is_lost(error: BaseException) -> bool:
    """Whether an error of torch means that another process cannot be reached any more."""
    if not isinstance(error, RuntimeError):
        return False
    if _OWN_FAULT.search(str(error)):
        return False
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def _lost(why: str) -> MachineError:
    short = re.sub(r"^\[\S+\] ", "", why).splitlines()[0].partition(". ")[0]  # without the place in torch's source
    return MachineError(
        f"another process of this run has ended or cannot be reached ({short})",
        "the launcher says which one ended and how; the same command continues from the newest checkpoint",
    )


def _exit_code(error: BaseException) -> int:
    if known := explained(error):
        return known.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 130 if isinstance(error, KeyboardInterrupt) else 1
