"""What others leave of the machine while a run trains: how many threads suit it may change between checkpoints."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch

from ..io.text import plural
from .distributed import ProcessGroup
from .threads import allowed_cores, busy_share, processor_times, usable_cores

_SHORTEST = 10.0  # seconds that tell anything of a load
_SPENT = ("user", "system", "children_user", "children_system")  # of psutil's times of a process
_CHANGED = 1.5  # times as many threads, or as few: less is not worth other last bits


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What was spent until a moment."""

    at: float  # monotonic
    processors: Mapping[int, tuple[float, float]]  # free and total seconds of each
    own: float  # seconds of this process and those that it started


class LoadWatch:
    """Decides now and then how many threads compute on a CPU, by what others needed; the same in all processes."""

    def __init__(self, group: ProcessGroup):
        """All processes must call it together; from here on they compute with the same number of threads."""
        self._group, self._before = group, _look()
        torch.set_num_threads(min(group.all_gather(torch.get_num_threads())))

    def adapt(self) -> str | None:
        """Compute with another number of threads where the load has changed; then a line that says so, else None.

        All processes must call it together.
        """
        before, now = self._before, _look()
        old, seconds = torch.get_num_threads(), now.at - before.at
        if min(self._group.all_gather(seconds)) < _SHORTEST:
            return None
        self._before = now
        host = platform.node()
        everywhere = self._group.all_gather((host, (now.own - before.own) / seconds))
        own = [spent for name, spent in everywhere if name == host]
        cores = usable_cores()
        used = {cpu: busy_share(before.processors[cpu], share) for cpu, share in now.processors.items()}
        others = max(0.0, sum(used[cpu] for core in cores for cpu in core if cpu in used) - sum(own))
        idle = max(1, min(allowed_cores(cores), round(len(cores) - others)) // len(own)) if used else old
        new, busiest = min(self._group.all_gather((idle, -others)))
        if max(old, new) < _CHANGED * min(old, new):
            return None
        torch.set_num_threads(new)
        why = f"others kept {-busiest:.1f} of {plural(len(cores), 'core')} busy since the last look"
        return f"computing with {plural(new, 'thread')} from now on, not {old}: {why} (--threads N decides)"


def _look() -> _Look:
    own = psutil.Process()
    spent = [own.cpu_times()]
    with contextlib.suppress(psutil.Error):
        for child in own.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                spent.append(child.cpu_times())
    seconds = sum(getattr(times, name, 0.0) for times in spent for name in _SPENT)
    return _Look(at=time.monotonic(), processors=processor_times(), own=seconds)
