"""Limits of time that a busy or slow machine does not bring about: all tests that wait for something use them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

_ADDITIONS, _USUAL = 2_000_000, 0.02  # seconds: half of what an idle core takes, because the load may grow
_MOST = 40.0  # what takes even longer hangs


def slowness() -> float:
    """How many times longer than on an idle machine work may take at this moment: 1 to 2 there, 40 at most."""
    began = time.perf_counter()
    sum(range(_ADDITIONS))
    return min(max((time.perf_counter() - began) / _USUAL, 1.0), _MOST)


def scaled(seconds: float) -> float:
    """So many seconds of an idle machine, as long as they take at this moment."""
    return seconds * slowness()


class Limit:
    """So many seconds of an idle machine from now on. When they have passed, it is measured how busy this one is."""

    def __init__(self, seconds: float):
        self._began, self._seconds, self._slowest = time.monotonic(), seconds, 1.0

    def left(self) -> float:
        """Seconds until it is over; 0 or less when it is."""
        passed = time.monotonic() - self._began
        if passed >= self._seconds * self._slowest:
            self._slowest = max(self._slowest, slowness())
        return self._seconds * self._slowest - passed

    def is_over(self) -> bool:
        return self.left() <= 0


def call_after(seconds: float, late: Callable[[], object]) -> None:
    """Call `late` in this thread, the main one, when a limit of so many seconds is over, unless `call_off` was."""
    limit = Limit(seconds)

    def look(number: int, frame: object) -> None:
        left = limit.left()
        if left > 0:
            signal.setitimer(signal.ITIMER_REAL, left)
        else:
            late()

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def call_off() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
