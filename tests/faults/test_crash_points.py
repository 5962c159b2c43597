"""Saving that is cut short at any of its changes of the disk costs nothing that was there before."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from harness import in_fresh_process, tell

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform == "win32", reason="needs fork")]


@pytest.mark.timeout(7200)
def test_a_kill_or_a_failing_disk_at_every_change_of_a_save_loses_nothing(tmp_path: Path, long_mode: bool) -> None:
    found = in_fresh_process("crash_points:crash_points", 7000, folder=tmp_path, saves=20 if long_mode else 1)
    tell("crash points x {kill, ENOSPC, EIO, short write}", found)
    assert found["lost"] == 0, found["why"]
    kinds = {"open", "write", "fsync", "mkdir", "replace", "unlink", "rmdir"}
    assert kinds <= set(found["kinds"]), "the points reach from writing to pruning"
    assert {"kill -9", "ENOSPC 6", "EIO 6"} <= set(found["codes"]), "the faults did happen"


@pytest.mark.parametrize("how", ["a small file system", "a limit on file sizes"])
def test_a_disk_that_is_really_full_stops_a_run_with_exit_code_6_and_no_leftover_files(
    how: str, tmp_path: Path, long_mode: bool
) -> None:
    if how == "a small file system" and (sys.platform != "linux" or os.geteuid() != 0):
        pytest.skip("only root can mount one")
    found = in_fresh_process("crash_points:full_disk", folder=tmp_path, how=how, sizes=50 if long_mode else 6)
    if found.get("skipped"):
        pytest.skip(found["skipped"])
    tell(f"full disk, {how}", found)
    assert found["lost"] == 0, found["why"]
    assert found["full"] > 0, "the disk was never full"
