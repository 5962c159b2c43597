"""Errors that a user can act on: what is wrong, then what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DitkitError(Exception):
    """Something the user can mend; printed as `error: message` and `hint: hint`, without a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DitkitError):
    """A wrong word, flag or setting, found before any work began."""

    exit_code = 2


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that nobody knows: the nearest known names, else all of them (at most twelve)."""
    choices = list(known)
    near = difflib.get_close_matches(str(name).lower(), choices, n=3, cutoff=0.5)
    if near:
        hint = "did you mean " + " or ".join(repr(choice) for choice in near) + "?"
    elif choices:
        hint = "known: " + ", ".join(choices[:12]) + (" …" if len(choices) > 12 else "")
    else:
        hint = f"there is no {kind} to choose from"
    return UsageError(f"unknown {kind} {name!r}", hint)
