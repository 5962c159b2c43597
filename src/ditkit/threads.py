"""How the process waits and keeps its memory; decided before torch is imported."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's mallopt


def calm_threads() -> None:
    """Let OpenMP threads spin only briefly before they sleep; call before torch is imported.

    GNU OpenMP spins for milliseconds by default: on a host with one busy core that doubles the time of a training step
    and can be far worse, while a short spin costs a few per cent on an idle one. What the user set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
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
