"""What is decided before torch is imported, and left alone where the user decided."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import pytest

from ditkit.runtime import threads
from ditkit.runtime.threads import Threads, calm_threads, choose_threads, keep_memory, quota


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

    monkeypatch.setattr("ditkit.runtime.threads.sys.platform", "linux")
    monkeypatch.setattr("ditkit.runtime.threads.ctypes.CDLL", lambda _name: Library)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    keep_memory()
    assert calls == []
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    keep_memory()
    assert (-4, 0) in calls  # no block is mapped and unmapped for itself


@pytest.fixture
def machine(monkeypatch):
    """`machine(cores, busy, quota)`: what the system says."""

    def is_like(cores: int, busy: float = 0.0, limit: float | None = None, **environment: str) -> None:
        for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(threads, "usable_cores", lambda: [frozenset({2 * n, 2 * n + 1}) for n in range(cores)])
        monkeypatch.setattr(threads, "busy_cores", lambda _cores: busy)
        monkeypatch.setattr(threads, "quota", lambda: limit)

    return is_like


def test_as_many_threads_as_cores_are_idle(machine):
    machine(8)
    assert choose_threads() == Threads(count=8, follows=True)
    machine(8, busy=2.9)
    chosen = choose_threads()
    assert (chosen.count, chosen.busy) == (5, True)
    assert "computing with 5 threads" in str(chosen.why) and "2.9 of 8 cores busy" in str(chosen.why)
    machine(2, busy=2.0)
    assert choose_threads().count == 1
    machine(64, limit=2.5)
    assert choose_threads().count == 2
    assert "this container may use 2 of 64 cores" in str(choose_threads().why)


def test_a_number_the_user_and_the_run_that_goes_on_come_before_the_load(machine):
    machine(4, busy=3.0)
    assert choose_threads("3") == Threads(count=3)
    assert choose_threads("auto", kept=4) == Threads(
        count=4, busy=True, follows=True
    )  # or the last bits would be others
    assert choose_threads("auto", kept=16).count == 4
    machine(4)
    fewer = choose_threads("auto", kept=1)
    assert fewer.count == 1
    assert fewer.why == "computing with 1 thread, as before in this run: 4 cores are idle"
    machine(4, busy=3.0, OMP_NUM_THREADS="2")
    assert choose_threads() == Threads()


def test_processes_of_a_launcher_share_the_cores(machine):
    machine(8, busy=3.0, LOCAL_WORLD_SIZE="2", OMP_NUM_THREADS="1")
    assert choose_threads() == Threads(count=4, follows=True)
    assert choose_threads(kept=3).count == 3 and choose_threads(kept=6).count == 4
    machine(2, LOCAL_WORLD_SIZE="4")
    assert choose_threads().count == 1


def test_on_a_busy_machine_waiting_threads_do_not_spin(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    calm_threads(Threads(busy=True))
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    calm_threads(Threads(busy=True))
    assert os.environ["GOMP_SPINCOUNT"] == "0"


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "max 100000"}, None),
        ("3:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}, 2.0),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("2:memory:/a", {"a/cpu.max": "100000 100000"}, None),
        ("", {}, None),
    ],
)
def test_limits_of_a_container_are_read_at_every_level(tmp_path, line, files, expected):
    (tmp_path / "groups").write_text(line + "\n", encoding="utf-8")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    assert quota(tmp_path, tmp_path / "groups") == expected


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux")
def test_what_windows_counts_twice_is_counted_once(monkeypatch):
    row = namedtuple("scputimes", "user system idle interrupt dpc")(2.0, 3.0, 5.0, 1.0, 0.5)
    monkeypatch.setattr("psutil.cpu_times", lambda percpu: [row])
    assert threads.processor_times() == {0: (5.0, 10.0)}


def test_where_the_system_does_not_tell_of_its_processors_nobody_is_taken_for_busy(monkeypatch):
    monkeypatch.setattr(threads, "processor_times", dict)
    monkeypatch.setattr(os, "getloadavg", lambda: (8.0, 8.0, 8.0))  # of a run that has just ended
    assert threads.busy_cores([frozenset({0}), frozenset({1})]) == 0


def test_a_share_that_rounding_takes_beyond_its_bounds_is_none_or_all():
    assert threads.busy_share((1e9 / 3, 1e9 / 3), (1e9 / 3 + 0.2, 1e9 / 3 + 0.2 - 1e-7)) == 0
    assert threads.busy_share((1.0, 1.0), (0.9, 1.2)) == 1


def test_the_load_is_between_none_and_all_of_the_cores():
    cores = threads.usable_cores()
    assert 0 <= threads.busy_cores(cores) <= len(cores)
    assert sum(len(core) for core in cores) >= len(os.sched_getaffinity(0))
