"""The number of threads follows the load of the machine from checkpoint to checkpoint, and is part of them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from training_runs import digest, run

from ditkit.events import Warned
from ditkit.runs.folder import RunFolder
from ditkit.runs.resume import kept_threads
from ditkit.runtime import load, threads
from ditkit.runtime.distributed import ProcessGroup
from ditkit.runtime.load import LoadWatch
from ditkit.training.step import SpeedOptions

FOLLOWING = SpeedOptions(follow_load=True)


@pytest.fixture(autouse=True)
def own_threads():
    """Each test ends with the threads that torch had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(monkeypatch):
    """`machine(cores, others)` makes a machine; each look at it comes 60 s after the last, and finds the next load.

    Others would keep as many cores busy as `others` says, this process as many as it has threads; they share.
    """

    def is_like(cores: int, others: list[float], apart: float = 60.0, limit: int | None = None) -> None:
        spent, own, at, loads = [0.0] * cores, 0.0, 0.0, iter([0.0, *others])

        def look():
            nonlocal own, at
            wanted = torch.get_num_threads() + next(loads)
            part = min(1, cores / wanted)
            own, at = own + torch.get_num_threads() * part * apart, at + apart
            spent[:] = [seconds + wanted * part / cores * apart for seconds in spent]
            times = {number: (at - seconds, at) for number, seconds in enumerate(spent)}
            return load._Look(at=at, processors=times, own=own)

        monkeypatch.setattr(load, "_look", look)
        for module in (load, threads):
            monkeypatch.setattr(module, "usable_cores", lambda: [frozenset({number}) for number in range(cores)])
        monkeypatch.setattr(threads, "quota", lambda: limit)

    return is_like


def numbers(count: int, began_with: int, group: ProcessGroup = ProcessGroup()) -> list[int]:
    """The threads after each of some looks."""
    torch.set_num_threads(began_with)
    watch, after = LoadWatch(group), []
    for _ in range(count):
        watch.adapt()
        after.append(torch.get_num_threads())
    return after


@pytest.mark.parametrize(
    ("cores", "began_with", "others", "expected"),
    [
        (2, 1, [0, 0, 1, 1, 0], [2, 2, 1, 1, 2]),  # a neighbour of the first second is gone, and comes back
        (2, 1, [1, 1], [1, 1]),
        (2, 2, [0, 0], [2, 2]),
        (8, 8, [2, 4, 0], [8, 5, 8]),  # 6 of 8 would not be worth other last bits
        (4, 1, [4], [1]),
    ],
)
def test_as_many_threads_as_others_leave_cores(machine, cores, began_with, others, expected):
    machine(cores, others)
    assert numbers(len(others), began_with) == expected


def test_a_container_gets_no_more_than_its_share(machine):
    machine(8, [0.0], limit=2)
    assert numbers(1, 1) == [2]


def test_a_moment_tells_nothing_of_the_load(machine):
    machine(2, [0.0], apart=9)
    assert numbers(1, 1) == [1]


def test_where_the_system_does_not_say_its_load_the_threads_stay(monkeypatch):
    monkeypatch.setattr(load, "processor_times", dict)
    monkeypatch.setattr(load, "_SHORTEST", 0.0)
    assert numbers(1, 3) == [3]


class Neighbour(ProcessGroup):
    """A process that has one more beside it on this machine, which does the same."""

    def all_gather(self, value):
        return [value, value]


class Elsewhere(ProcessGroup):
    """A process that has one more on another machine, which has a load."""

    def all_gather(self, value):
        if isinstance(value, tuple):
            return [value, ("elsewhere", 9.0) if isinstance(value[0], str) else (1, -7.0)]
        return [value, value]


def test_processes_share_the_cores_and_agree(machine):
    machine(8, [2.0])  # which the other process keeps busy
    assert numbers(1, 2, Neighbour()) == [4]
    machine(8, [0.0])
    assert numbers(1, 8, Elsewhere()) == [1]


def test_processes_begin_with_the_same_number(machine):
    class Group(ProcessGroup):
        def all_gather(self, value):
            return [value, 1]

    machine(2, [])
    assert numbers(0, 2, Group()) == [] and torch.get_num_threads() == 1


def test_a_change_is_said_and_part_of_the_checkpoint(tiny, tmp_path, machine):
    machine(2, [0.0, 0.0, 1.0])
    torch.set_num_threads(1)
    warned = run(tiny(train={"steps": 12, "save_every": 3}), tmp_path / "r", speed=FOLLOWING).of(Warned)
    assert [(event.step, event.text) for event in warned] == [
        (
            3,
            "computing with 2 threads from now on, not 1: others kept 0.0 of 2 cores busy since the last look "
            "(--threads N decides)",
        ),
        (
            9,
            "computing with 1 thread from now on, not 2: others kept 0.7 of 2 cores busy since the last look "
            "(--threads N decides)",
        ),
    ]
    states = [RunFolder(tmp_path / "r").checkpoint(step) / "state.json" for step in (9, 12)]
    assert [json.loads(state.read_text())["threads"] for state in states] == [1, 1]


def test_a_run_that_is_stopped_where_its_threads_changed_ends_to_the_same_bit(tiny, tmp_path, machine):
    config = tiny(train={"steps": 12, "save_every": 3})
    machine(2, [0.0, 1.0, 1.0])
    torch.set_num_threads(1)
    run(config, tmp_path / "straight", speed=FOLLOWING)
    machine(2, [0.0])
    torch.set_num_threads(1)
    run(config, tmp_path / "parts", stop_after=3, speed=FOLLOWING)
    assert kept_threads(RunFolder(tmp_path / "parts")) == 2  # what `ditkit train` then begins with
    machine(2, [1.0, 1.0])
    assert not [
        event for event in run(config, tmp_path / "parts", speed=FOLLOWING).of(Warned) if "differ" in event.text
    ]
    assert digest(tmp_path / "parts") == digest(tmp_path / "straight")


def test_threads_stay_where_nobody_asked_to_follow_the_load(tiny, tmp_path, machine):
    machine(2, [])  # not even looked at
    run(tiny(), tmp_path / "r")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the times of processors")
def test_what_own_processes_need_is_no_load_of_others():
    before = load._look()
    code = (
        "import time\nwhile time.process_time() < 0.6: pass\nprint(flush=True)\nwhile time.process_time() < 0.8: pass"
    )
    worker = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    worker.stdout.readline()
    alive = load._look()
    worker.communicate()
    ended = load._look()
    assert alive.own - before.own >= 0.55 and ended.own - before.own >= 0.75
