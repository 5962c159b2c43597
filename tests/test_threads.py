"""What is decided before torch is imported, and left alone where the user decided."""

from __future__ import annotations

import os

import pytest

from ditkit.threads import calm_threads, keep_memory


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "20000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, None),
    ],
)
def test_threads_spin_briefly_unless_the_user_says_otherwise(monkeypatch, given, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    calm_threads()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_malloc_is_tuned_only_where_the_user_has_not(monkeypatch):
    calls = []

    class Library:
        @staticmethod
        def mallopt(parameter: int, value: int) -> int:
            calls.append((parameter, value))
            return 1

    monkeypatch.setattr("ditkit.threads.sys.platform", "linux")
    monkeypatch.setattr("ditkit.threads.ctypes.CDLL", lambda _name: Library)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    keep_memory()
    assert calls == []
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    keep_memory()
    assert (-4, 0) in calls  # no block is mapped and unmapped for itself
