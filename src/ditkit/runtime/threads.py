"""How many threads compute, how they wait, and how the process keeps its memory; decided before torch is imported."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..io.text import plural
from .launch import launched_here
from .memory import control_groups, system_text

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's mallopt
_SAMPLE = 0.2  # seconds in which the load of the machine is sampled
_BUSY = 0.5  # cores kept busy by others from which on waiting threads must not spin


@dataclass(frozen=True, kw_only=True)
class Threads:
    """How many threads compute; None leaves it to torch. `why` is a line for people, where the count needs a reason."""

    count: int | None = None
    busy: bool = False  # others use this machine
    why: str | None = None
    follows: bool = False  # the load of the machine, at checkpoints


def choose_threads(word: str = "auto", kept: int | None = None) -> Threads:
    """The threads for `word`, a number or auto: as many as there are idle cores that this process may use.

    `kept` is the number that the run which goes on was trained with: another one would change its last bits, so that
    it stays where the cores are there, until the load is looked at again. Processes that a launcher started share the
    cores. OMP_NUM_THREADS, set by the user, decides before all of it.
    """
    cores = usable_cores()
    if word != "auto":
        return Threads(count=int(word), busy=int(word) > len(cores))
    processes = launched_here()
    omp_threads = os.environ.get("OMP_NUM_THREADS")
    if omp_threads is not None and not (processes > 1 and omp_threads == "1"):  # torchrun sets it to 1
        return Threads()
    allowed = allowed_cores(cores)
    if processes > 1:
        share = max(1, allowed // processes)
        return Threads(count=min(kept or share, share), follows=True)
    busy = busy_cores(cores)
    idle = max(1, min(allowed, round(len(cores) - busy)))
    count = min(kept or idle, allowed)
    why = None
    if not kept and allowed < len(cores):
        why = f": this container may use {allowed} of {len(cores)} cores"
    if not kept and idle < allowed:
        why = f": others keep {busy:.1f} of {len(cores)} cores busy"
    if count < idle:
        why = f", as before in this run: {idle} cores are idle"
    text = f"computing with {plural(count, 'thread')}{why}" if why else None
    return Threads(count=count, busy=busy >= _BUSY, why=text, follows=True)


def prepare_threads(word: str = "auto", kept: int | None = None) -> Threads:
    """`choose_threads`, with `calm_threads` for what it chose; call before importing torch."""
    threads = choose_threads(word, kept)
    calm_threads(threads)
    return threads


def take_threads(threads: Threads) -> None:
    """Set torch's number of threads."""
    if threads.count is not None:
        import torch

        torch.set_num_threads(threads.count)


def usable_cores() -> list[frozenset[int]]:
    """The cores that this process may run on, each as the set of its hardware threads."""
    if hasattr(os, "sched_getaffinity"):
        return sorted({frozenset(_siblings(cpu)) for cpu in os.sched_getaffinity(0)}, key=min)
    import psutil

    logical = os.cpu_count() or 1
    each = max(1, logical // (psutil.cpu_count(logical=False) or logical))
    return [frozenset(range(first, first + each)) for first in range(0, logical, each)]


def allowed_cores(cores: Sequence[frozenset[int]]) -> int:
    """How many of the cores this process may keep busy: fewer where its container has a limit."""
    return max(1, min(len(cores), math.floor(quota() or len(cores))))


def busy_cores(cores: Iterable[frozenset[int]]) -> float:
    """How many of some cores others keep busy: sampled for a moment; 0 where the system does not say.

    The load average would tell of the last minutes, and so of a run of this user's that has just ended.
    """
    before = processor_times()
    if not before:
        return 0.0
    time.sleep(_SAMPLE)
    after = processor_times()
    shares = {cpu: busy_share(before[cpu], after[cpu]) for cpu in before if cpu in after}
    return sum(max((shares.get(cpu, 0.0) for cpu in core), default=0.0) for core in cores)


def quota(*system: Path) -> float | None:
    """Cores' worth of time that the control groups of this process allow; None where they set no limit."""
    limits: list[float] = []
    for group in control_groups("cpu", *system):
        limit, _, period = system_text(group / "cpu.max").partition(" ")
        limit = limit or system_text(group / "cpu.cfs_quota_us")
        period = period or system_text(group / "cpu.cfs_period_us")
        if limit.isdigit() and period.isdigit() and int(period):
            limits.append(int(limit) / int(period))
    return min(limits, default=None)


def calm_threads(threads: Threads | None = None) -> None:
    """Let OpenMP threads spin only briefly before they sleep, on a busy host not at all; call before importing torch.

    GNU OpenMP spins for milliseconds by default: on a host with one busy core that doubles the time of a training step
    and can be far worse, while a short spin costs a few per cent on an idle one. What the user set stays.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return
    if threads is not None and threads.busy and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = "0"
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def keep_memory() -> None:
    """Let glibc keep freed blocks instead of giving them back: every step needs the same ones again.

    Elsewhere, or where the user tuned malloc, this does nothing.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 64 << 20)


def give_back_memory() -> None:
    """Return what glibc keeps unused, after work that needed more than the work that follows."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _siblings(cpu: int) -> set[int]:
    """The hardware threads of a processor's core, which Linux writes as `0,64` or `0-1`."""
    numbers = {cpu}
    for part in system_text(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).split(","):
        first, _, last = part.partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def processor_times() -> Mapping[int, tuple[float, float]]:
    """Free and total seconds so far of each processor; nothing where the system does not say."""
    import psutil

    try:
        times = psutil.cpu_times(percpu=True)
    except (OSError, RuntimeError, ValueError):
        return {}
    # What runs at low priority gives way to this process, unless this one does, too.
    yields = ("nice",) if hasattr(os, "nice") and os.nice(0) <= 0 else ()
    free = [sum(getattr(row, name, 0.0) for name in ("idle", "iowait", *yields)) for row in times]
    twice = ("guest", "guest_nice", "interrupt", "dpc")  # part of others: of Linux and of Windows
    total = [sum(row) - sum(getattr(row, name, 0.0) for name in twice) for row in times]
    return dict(enumerate(zip(free, total, strict=True)))


def busy_share(before: tuple[float, float], after: tuple[float, float]) -> float:
    """The part, 0 to 1, of the time between two readings of `processor_times` in which a processor was not free."""
    total = after[1] - before[1]
    busy = 1 - (after[0] - before[0]) / total if total > 0 else 0.0
    return min(max(busy, 0.0), 1.0)  # differences of large sums are a little off
