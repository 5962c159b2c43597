"""Errors say in Python, too, what to do."""

from __future__ import annotations

import pickle

from ditkit.errors import DataError, UsageError


def test_an_error_says_its_hint_and_keeps_it_on_the_way_between_processes() -> None:
    error = UsageError("unknown label 3", "did you mean '3'?")
    assert str(error) == "unknown label 3\nhint: did you mean '3'?"
    assert str(DataError("no images")) == "no images"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (again.message, again.hint) == (error.message, error.hint)
