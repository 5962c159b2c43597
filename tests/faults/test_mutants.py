"""Each protection switched off makes a harness find losses: what the others prove is not proved by looking away."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import in_fresh_process

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform == "win32", reason="needs fork and POSIX signals")]


@pytest.mark.parametrize(
    "switched_off",
    [{"without": "files"}, {"without": "folders"}, {"mutant": "prune_first"}],
    ids=["fsync of files", "fsync of folders", "saving before pruning"],
)
def test_a_power_cut_shows_what_is_missing(switched_off: dict[str, Any], tmp_path: Path) -> None:
    found = in_fresh_process("power_loss:power_loss", folder=tmp_path, steps=4, every=5, **switched_off)
    assert found["lost"] > 0


@pytest.mark.parametrize("mutant", ["prune_first", "in_place", "longer_metrics_stay", "litter_stays"])
def test_a_kill_while_saving_shows_what_is_missing(mutant: str, tmp_path: Path) -> None:
    found = in_fresh_process("crash_points:crash_points", folder=tmp_path, mutant=mutant, faults=["kill"], every=9)
    assert found["lost"] > 0


def test_a_lock_that_workers_inherit_refuses_the_restart(tmp_path: Path) -> None:
    found = in_fresh_process("kills:random_kills", folder=tmp_path, kills=5, workers=2, patience=0, mutant="flock")
    assert any("exit 7" in why for why in found["why"]), found


def test_workers_that_end_by_signals_take_the_checkpoint_with_them(tmp_path: Path) -> None:
    case = {"number": signal.SIGTERM, "start": "fork", "mutant": "workers_heed_signals"}
    (found,) = in_fresh_process("kills:group_signals", folder=tmp_path, cases=[case])
    assert found["exit"] == 1 and found["lost"] > 0, found


def test_workers_that_leave_it_to_torch_outlive_a_killed_run(tmp_path: Path) -> None:
    found = in_fresh_process("kills:killed_as_workers_begin", folder=tmp_path, mutant="workers_outlive")
    assert found["orphans"] == 1


def test_without_sums_damaged_weights_are_loaded(tmp_path: Path) -> None:
    assert in_fresh_process("fuzz:fuzz", folder=tmp_path, last=300, mutant="any_sum")["wrong"] > 0
