"""Progress of long work: bars and spinners on a terminal, lines now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..io.progress import LOADING_TORCH, Progress, Watch
from ..io.terminal import draws_bars, say, stderr
from ..runtime.signals import interruptible

_BETWEEN_LINES = 15.0  # seconds, where there is no terminal


@contextmanager
def spinner(text: str, *, quiet: bool = False) -> Iterator[None]:
    """A spinner around slow work, where stderr is a terminal."""
    terminal = stderr()
    if quiet or not draws_bars(terminal):
        yield
        return
    with terminal.status(text):
        yield


@contextmanager
def bar(text: str, *, quiet: bool = False) -> Iterator[Callable[[float, float | None], None]]:
    """A bar on stderr where that is a terminal; gives a function that takes (done, of how much)."""
    terminal = stderr()
    if quiet or not draws_bars(terminal):
        yield (lambda done, total: None) if quiet else _lines(text)
        return
    from rich.progress import Progress

    with Progress(console=terminal, refresh_per_second=4, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def announced(text: str) -> Iterator[Progress]:
    """For `io.progress.reporting_to`: a line of its own, and a bar."""
    say(text)
    with bar(text.partition(" ")[0]) as show:
        yield show


def _lines(text: str) -> Callable[[float, float | None], None]:
    """What a bar does where stderr is no terminal: a line now and then, if it takes long."""
    last = time.monotonic()

    def show(done: float, total: float | None) -> None:
        nonlocal last
        if total and time.monotonic() - last >= _BETWEEN_LINES:
            last = time.monotonic()
            say(f"{text}: {done / total:.0%}")

    return show


def progress_bars(*, quiet: bool = False) -> Watch:
    """For `progress=` of library functions: work named "reading …" spins, other work has a bar.

    They are drawn on stderr, where that is a terminal, and in a notebook with ipywidgets; elsewhere a line comes now
    and then. `quiet` shows nothing.
    """

    @contextmanager
    def show(text: str) -> Iterator[Progress]:
        if text.endswith("…"):
            with loading_torch(quiet=quiet) if text == LOADING_TORCH else spinner(text, quiet=quiet):
                yield lambda done, total: None
        else:
            with bar(text, quiet=quiet) as update:
                yield update

    return show


@contextmanager
def loading_torch(*, quiet: bool = False) -> Iterator[None]:
    """Around the first import of torch and what needs it, which takes seconds: shows a spinner."""
    from ..runtime.threads import calm_threads, choose_threads, keep_memory

    if "torch" not in sys.modules and "GOMP_SPINCOUNT" not in os.environ:  # else it is decided
        calm_threads(choose_threads())
    keep_memory()
    with spinner(LOADING_TORCH, quiet=quiet), interruptible():
        yield
