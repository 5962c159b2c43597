"""Errors that a user can act on: what is wrong, then what to do. The class is the exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DitkitError(Exception):
    """Something the user can repair; printed as `error: message` and `hint: hint`, without a traceback.

    Args:
        message: what is wrong, in one line.
        hint: what to do about it, if that is known.

    Raised as one of the classes below; ditkit exits with 1 itself only for a bug.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UsageError(DitkitError):
    """A wrong word, flag or setting, found before any work began."""

    exit_code = 2


class DataError(DitkitError):
    """Images, labels or metrics that are missing, damaged or not what they should be."""

    exit_code = 3


class CheckpointError(DitkitError):
    """A checkpoint or a weights file that is missing, damaged, foreign or too new."""

    exit_code = 4


class DivergedError(DitkitError):
    """Training that diverged: a loss or a gradient that is no longer finite."""

    exit_code = 5


class MachineError(DitkitError):
    """The machine lacks or refuses something: disk, memory, permissions, devices, network."""

    exit_code = 6


class BusyError(DitkitError):
    """A run folder that another process works in."""

    exit_code = 7


class PeerError(DitkitError):
    """Another of the processes that were launched together has failed, and says why: this one ends silently."""

    def __init__(self, exit_code: int):
        super().__init__("another process of this run has failed")
        self.exit_code = exit_code


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for an unknown name: its hint is the nearest known names, else all of them (at most twelve)."""
    choices = list(known)
    nearest = difflib.get_close_matches(str(name).lower(), choices, n=3, cutoff=0.5)
    if nearest:
        hint = "did you mean " + " or ".join(repr(choice) for choice in nearest) + "?"
    elif choices:
        hint = "known: " + ", ".join(choices[:12]) + (" …" if len(choices) > 12 else "")
    else:
        hint = f"there is no {kind} to choose from"
    return UsageError(f"unknown {kind} {name!r}", hint)
