"""A run that is killed at any moment, as often as you like, ends as if it had never been."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from harness import in_fresh_process, tell
from patience import scaled

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs fork and POSIX signals"),
]


@pytest.mark.parametrize(("workers", "share"), [(0, 0.7), (2, 0.3)], ids=["alone", "with two workers"])
@pytest.mark.timeout(3600)
def test_killed_at_random_moments_and_started_again_at_once_a_run_loses_nothing(
    workers: int, share: float, tmp_path: Path, long_mode: bool
) -> None:
    kills = round((500 if long_mode else 20) * share)
    found = in_fresh_process("kills:random_kills", 3500, folder=tmp_path, kills=kills, workers=workers)
    tell(f"kill -9 at random, {workers} workers", found)
    assert (found["lost"], found["kills"], found["orphans"]) == (0, kills, 0), found["why"]


def test_workers_that_only_begin_do_not_outlive_a_killed_run(tmp_path: Path) -> None:
    assert in_fresh_process("kills:killed_as_workers_begin", folder=tmp_path) == {"orphans": 0}


@pytest.mark.timeout(3600)
def test_the_command_as_it_is_typed_survives_kills_too(tmp_path: Path, long_mode: bool) -> None:
    kills = 40 if long_mode else 2
    found = in_fresh_process("kills:plain_kills", 3500, folder=tmp_path, kills=kills)
    tell("kill -9 of `python -m ditkit train`", found)
    assert (found["lost"], found["kills"]) == (0, kills), found["why"]


def test_a_signal_to_the_whole_group_stops_workers_and_all_with_everything_saved(tmp_path: Path) -> None:
    cases = [
        {"number": signal.SIGTERM, "start": "fork"},
        {"number": signal.SIGINT, "start": "fork"},
        {"number": signal.SIGTERM, "start": "spawn"},
        {"number": signal.SIGINT, "start": "spawn", "begins": True},
    ]
    for case, found in zip(cases, in_fresh_process("kills:group_signals", folder=tmp_path, cases=cases), strict=True):
        tell(f"{signal.Signals(case['number']).name} to a group with 2 workers ({case['start']})", found)
        assert (found["exit"], found["lost"]) == (128 + case["number"], 0), (case, found)
        assert found["equal"], (case, found)
        assert "Traceback" not in found["said"]


def test_a_second_ctrl_c_stops_at_once_and_costs_no_checkpoint_that_was_there(tmp_path: Path) -> None:
    case = {"number": signal.SIGINT, "start": "fork", "twice": True, "mutant": "slow_disk"}
    (found,) = in_fresh_process("kills:group_signals", folder=tmp_path, cases=[case])
    tell("SIGINT twice while a slow disk saves", found)
    assert found["exit"] == 130
    assert found["seconds"] < scaled(1.5), "saving takes 2.5 seconds"
    assert found["lost"] > 0, "what was being saved is not there"
    assert found["equal"], found
