"""One small proof of each fault: what `-m faults` proves at length, in seconds, so that every run of the tests has it.

A damaged checkpoint is in tests/training, and an exact resume in tests/training and tests/test_frozen.py.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from devices import can_shard
from harness import in_fresh_process

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs fork and POSIX signals")


def test_a_run_killed_once_ends_as_if_it_had_never_been(tmp_path: Path) -> None:
    found = in_fresh_process("kills:random_kills", folder=tmp_path, kills=2)
    assert (found["lost"], found["kills"]) == (0, 2), found["why"]


@pytest.mark.parametrize("mutant", [None, "prune_first"])
def test_a_kill_while_saving_loses_nothing_but_where_pruning_comes_first(mutant: str | None, tmp_path: Path) -> None:
    found = in_fresh_process("crash_points:crash_points", folder=tmp_path, faults=["kill"], every=12, mutant=mutant)
    assert found["trials"] >= 4 and (found["lost"] > 0) == (mutant is not None), found["why"]


@pytest.mark.skipif(not can_shard(), reason="--shard needs a later torch")
def test_two_processes_with_whole_or_sharded_weights_equal_one(tmp_path: Path) -> None:
    found = in_fresh_process("devices:sharded", folder=tmp_path, steps=4)
    assert {code for runs in found["codes"].values() for some in runs for code in some} == {0}, found["said"]
    for name in ("two", "sharded"):
        assert found["losses"][name] == pytest.approx(found["losses"]["one"], rel=1e-5), name
