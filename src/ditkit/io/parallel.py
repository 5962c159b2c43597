"""The same work for many files in several threads, with its progress."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from queue import Empty, SimpleQueue

from .progress import Progress

_AT_ONCE = 8  # files
_TICK = 0.2  # seconds between two looks at the progress


def in_threads(
    work: Callable[[str], None], sizes: Mapping[str, int], show: Progress, coming: Callable[[], int] = lambda: 0
) -> Iterator[str]:
    """The paths of files as several threads get done with them. Raises the first error.

    The threads do not keep the process alive: an interrupt need not wait for a large file.

    Args:
        work: is called with each path.
        sizes: bytes of each file, by its path.
        show: takes the bytes done, and of how many.
        coming: bytes that unfinished files have so far.
    """
    waiting, finished, stopped = SimpleQueue[str](), SimpleQueue[tuple[str, Exception | None]](), threading.Event()
    for path in sizes:
        waiting.put(path)

    def go() -> None:
        with contextlib.suppress(Empty):
            while not stopped.is_set():
                path, error = waiting.get_nowait(), None
                try:
                    work(path)
                except Exception as raised:
                    error = raised
                finished.put((path, error))

    left, done, shown, total = set(sizes), 0, 0, sum(sizes.values())
    for _ in range(min(_AT_ONCE, len(sizes))):
        threading.Thread(target=go, daemon=True).start()
    try:
        while left:
            with contextlib.suppress(Empty):
                path, error = finished.get(timeout=_TICK)
                if error:
                    raise error
                left.remove(path)
                done += sizes[path]
                yield path
            shown = max(shown, done + (coming() if left else 0))
            show(shown, total)
    finally:
        stopped.set()
