"""All that is tried, in its order, within two minutes."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from ..errors import MachineError, UsageError
from ..io.paths import nearest_folder
from ..io.progress import Watch, no_progress
from ..io.text import format_duration
from ..kernels.choice import name
from ..runtime.device import DTYPES, find_device
from ..runtime.launch import launched
from . import gradients, machine
from .findings import Finding, NotTried, find
from .runs import Runs
from .subject import Subject

SECONDS = 120.0
_LAST = 15.0  # seconds of them that the longest piece takes: none begins later


def try_machine(device: str, runs: Path, progress: Watch = no_progress, seconds: float = SECONDS) -> Iterator[Finding]:
    """Try training, saving, resuming and drawing on a device, each as a finding; nothing is left behind.

    Args:
        device: auto, cpu, cuda, cuda:N or mps.
        runs: the folder of runs; a folder that is removed in the end is made there, or in the nearest one above it.
        progress: shown what is being tried.
        seconds: after which nothing more is begun.

    Raises MachineError for a device that is not there, and where there is no place to write to; UsageError in one of
    several processes.
    """
    if launched()[1] > 1:
        raise UsageError("one process tries a machine, not several", "run `ditkit doctor --try` without a launcher")
    until = time.monotonic() + seconds - _LAST
    where = find_device(device)
    with _working_folder(runs) as folder:
        subject = Subject(where, runs, folder)
        for title, work in _pieces(subject).items():
            with progress(f"trying {title} …"):
                yield find(title, partial(_in_time, work, until, seconds))


def _pieces(subject: Subject) -> dict[str, Callable[[], str]]:
    runs = Runs(subject)
    steps = {name(dtype): partial(_steps_hold, subject, runs, dtype) for dtype in DTYPES.values()}
    return {
        **steps,
        "stopped, resumed": runs.resumed_holds,
        "killed, resumed": runs.killed_holds,
        "kernels in C": partial(gradients.kernels_hold, subject),
        "compiled": partial(gradients.compiling_holds, subject),
        "samples": partial(gradients.samples_hold, subject),
        "memory": partial(machine.memory_holds, runs),
        "time": partial(machine.time_holds, runs),
        "share of the peak": partial(machine.share_holds, subject),
        "disk of the runs": partial(machine.runs_disk_holds, subject),
        "cache": partial(machine.cache_disk_holds, subject),
    }


def _steps_hold(subject: Subject, runs: Runs, dtype: torch.dtype) -> str:
    gradients.check_computes(subject.device, dtype)
    return f"{gradients.gradients_hold(subject, dtype)}, {runs.steps_hold(dtype)}"


def _in_time(work: Callable[[], str], until: float, seconds: float) -> str:
    if time.monotonic() > until:
        raise NotTried(f"the {format_duration(seconds)} are over", "try again when less uses this machine")
    return work()


@contextlib.contextmanager
def _working_folder(runs: Path) -> Iterator[Path]:
    """A folder where runs are or, where nothing can be written, among the system's temporary files."""
    for parent in (nearest_folder(runs), None):
        try:
            folder = tempfile.TemporaryDirectory(prefix=".ditkit-try-", dir=parent, ignore_cleanup_errors=True)
        except OSError:
            continue
        with folder as path:
            yield Path(path)
        return
    raise MachineError("there is no folder to write to", "make room, or name one with --runs-dir")
