"""What fitted into memory once fits again."""

from __future__ import annotations

import sys

import pytest
from harness import in_fresh_process, tell


@pytest.mark.faults
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and Linux's figures of memory")
def test_continuing_a_run_needs_no_more_memory_than_training_it(tmp_path) -> None:
    found = in_fresh_process("memory:peaks", folder=tmp_path)
    tell("peak memory", {f"MB {name}": round(value) for name, value in found.items()})
    assert found["training"] > found["nothing"] + 200  # else the model is too small to tell anything
    assert found["continuing"] <= 1.02 * found["training"]
