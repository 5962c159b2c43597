"""Limits of time of the tests: a busy machine gets more of it, one that hangs none."""

from __future__ import annotations

import time

import patience
import pytest
from patience import Limit, call_after, call_off, scaled, slowness


def test_a_limit_is_longer_where_the_machine_is_busy_and_ends_where_it_is_not(monkeypatch) -> None:
    now, busy = [0.0], [1.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience, "slowness", lambda: busy[0])
    limit = Limit(10)
    now[0], busy[0] = 9.0, 5.0
    assert limit.left() == 1  # nothing is measured before the time has passed
    now[0] = 10.0
    assert limit.left() == 40 and not limit.is_over()
    now[0], busy[0] = 50.0, 1.0
    assert limit.is_over()
    assert scaled(3) == 3


def test_how_slow_the_machine_is_has_bounds(monkeypatch) -> None:
    assert 1 <= slowness() <= 40
    clock = iter([0.0, 1e9])
    monkeypatch.setattr(patience.time, "perf_counter", lambda: next(clock))
    assert slowness() == 40


class Late(Exception):
    pass


def test_what_hangs_is_ended_and_what_is_called_off_is_not(monkeypatch) -> None:
    monkeypatch.setattr(patience, "slowness", lambda: 1.0)
    calls: list[str] = []

    def late() -> None:
        calls.append("late")
        raise Late

    with pytest.raises(Late):
        call_after(0.05, late)
        time.sleep(10)
    call_after(0.05, late)
    call_off()
    time.sleep(0.1)
    assert calls == ["late"]
