"""Ctrl-C and SIGTERM during long work: the first asks it to end well, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class StopRequest:
    """Becomes true when a signal has asked the work to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 0 when nothing came."""
        return 128 + self.signal if self.signal else 0


@contextmanager
def stop_on_signals(message: str = "") -> Iterator[StopRequest]:
    """While inside, the first SIGINT or SIGTERM sets the request and prints `message`; the second raises SystemExit."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if request():
            raise SystemExit(128 + number)
        request.signal = number
        if message:
            with suppress(OSError):  # not print: a signal may come in the middle of another print
                os.write(2, f"\n{message}\n".encode())

    if threading.current_thread() is not threading.main_thread():  # Python allows handlers nowhere else
        yield request
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
