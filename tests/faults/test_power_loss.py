"""What was said to be saved is there when the power comes back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from harness import in_fresh_process, tell

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform == "win32", reason="needs fork")]


@pytest.mark.timeout(3600)
def test_no_state_of_the_disk_after_a_power_cut_loses_a_checkpoint_that_was_reported_as_saved(
    tmp_path: Path, long_mode: bool
) -> None:
    steps = 40 if long_mode else 8
    found = in_fresh_process("power_loss:power_loss", 3500, folder=tmp_path, steps=steps)
    tell(f"power loss over {steps // 2} saves", found)
    assert (found["lost"], found["stuck"]) == (0, 0), found["why"]
    assert found["states"] > 100 * steps / 2
