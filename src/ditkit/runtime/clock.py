"""When this command began, for limits of its time that count the start too."""

from __future__ import annotations

import time

_began: float | None = None  # a monotonic time; None where Python, not the command line, uses the package


def start() -> None:
    """A command begins now."""
    global _began
    _began = time.monotonic()


def left(seconds: float | None) -> float | None:
    """What is left of a command's `seconds`: below 0 once they are over, None where they have no limit."""
    return seconds if seconds is None or _began is None else seconds - (time.monotonic() - _began)
