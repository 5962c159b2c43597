"""Damaged files are refused in ditkit's own words or read as they were: never a traceback, a hang or other numbers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from harness import in_fresh_process, tell

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform == "win32", reason="needs fork")]


@pytest.mark.timeout(14_400)
def test_no_damaged_file_ends_in_a_traceback_a_hang_or_a_wrong_load(tmp_path: Path, long_mode: bool) -> None:
    """DITKIT_FUZZ=250000:500000 takes a piece of the long run."""
    first, _, last = os.environ.get("DITKIT_FUZZ", "0:1000000" if long_mode else "0:5000").partition(":")
    found = in_fresh_process("fuzz:fuzz", 14_000, folder=tmp_path, first=int(first), last=int(last))
    tell(f"damaged files, cases {first} to {last}", found)
    assert (found["traceback"], found["hang"], found["wrong"]) == (0, 0, 0), "\n\n".join(found["why"][:20])
    assert found["kinds"]["checkpoint_file older"] > 0, "nothing was damaged"
