"""A run's folder is something that people send each other: whatever its files are, reading them is harmless."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness import in_fresh_process, tell

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform == "win32", reason="needs fork")]


@pytest.mark.timeout(14_400)
def test_whatever_lies_in_a_run_no_command_crashes_hangs_or_starts_a_program(tmp_path: Path, long_mode: bool) -> None:
    result = in_fresh_process("run_files:run_files", 14_000, folder=tmp_path, cases=2000 if long_mode else 81)
    tell("damaged runs", result)
    assert result["bad"] == 0, "\n\n".join(result["why"][:10])
