"""Signals during long work: the first asks it to end well, the second ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from ..errors import UsageError


class StopRequest:
    """Becomes true when a signal has asked the work to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after any other signal that asks to stop, 0 when nothing came."""
        if self.signal is None:
            return 0
        return 128 + (signal.SIGINT if self.signal == signal.SIGINT else signal.SIGTERM)


@contextmanager
def stop_on_signals(message: str = "", also: int | None = None) -> Iterator[StopRequest]:
    """While inside, the first SIGINT, SIGTERM, SIGHUP, Ctrl-Break or `also` sets the request and prints `message`.

    The second one raises SystemExit, but a pre-emption signal is often sent more than once: it never does. SIGHUP says
    that the terminal is gone, so that what is still printed to it would fail.
    """
    request = StopRequest()
    hangup = getattr(signal, "SIGHUP", None)
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def handle(number: int, frame: FrameType | None) -> None:
        if request():
            if number == also:
                return
            raise SystemExit(128 + number)
        request.signal = number
        if number == hangup:
            for stream in terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        if message:
            with suppress(OSError):  # not print: a signal may come in the middle of another print
                os.write(2, f"\n{message}\n".encode())

    if threading.current_thread() is not threading.main_thread():  # Python allows handlers nowhere else
        yield request
        return
    numbers = {signal.SIGINT, signal.SIGTERM} | ({signal.Signals(also)} if also is not None else set())
    if hasattr(signal, "SIGBREAK"):  # of Windows: Ctrl-Break
        numbers.add(signal.SIGBREAK)  # pyright: ignore[reportAttributeAccessIssue]
    if hangup is not None and signal.getsignal(hangup) == signal.SIG_DFL:  # else as by nohup: it goes on without
        numbers.add(hangup)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Around imports: some libraries try an import and go on after any error, also after Ctrl-C; here it still ends.

    Raises KeyboardInterrupt.
    """
    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        usual(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if came:
        raise KeyboardInterrupt


def preempt_signal(name: str) -> int:
    """The number of a signal that may announce a pre-emption: USR1, SIGUSR2, HUP …"""
    bare = name.strip().upper().removeprefix("SIG")
    names = [each for each in ("USR1", "USR2", "HUP", "CONT", "ALRM") if hasattr(signal, f"SIG{each}")]
    if not names:
        raise UsageError("--preempt-signal: this system has no signals that announce it", "leave it out")
    if bare not in names:
        raise UsageError(f"--preempt-signal: {name!r} is not one of {', '.join(names)}", "e.g. --preempt-signal USR1")
    return int(getattr(signal, f"SIG{bare}"))


@contextmanager
def leaving_on_signals() -> Iterator[None]:
    """While inside, SIGTERM and SIGHUP raise SystemExit, as Ctrl-C does KeyboardInterrupt: what is made goes again."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # Python allows handlers nowhere else
        yield
        return
    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    ours = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    previous = {number: signal.signal(number, leave) for number in ours}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
