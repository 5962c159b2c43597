"""Two processes that shard the weights equal one; one that fails or dies ends the other, and is heard once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from devices import can_shard
from harness import in_fresh_process
from patience import scaled

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs fork and POSIX signals"),
]


@pytest.mark.skipif(not can_shard(), reason="--shard needs a later torch")
def test_two_processes_with_whole_or_sharded_weights_equal_one_over_fifty_steps(tmp_path) -> None:
    found = in_fresh_process("devices:sharded", folder=tmp_path)
    codes, losses, ends, said = found["codes"], found["losses"], found["ends"], found["said"]
    assert {code for runs in codes.values() for some in runs for code in some} == {0}, (codes, said)
    for name in ("two", "sharded", "mixed"):  # uneven shares: 4 and 5 images in 3 parts
        assert losses[name] == pytest.approx(losses["one"], rel=1e-5), name
    assert losses["bfloat16"][:9] == pytest.approx(losses["one"][:9], rel=0.02)
    assert {key: ends["parts"].get(key) for key in ends["sharded"]} == ends["sharded"]  # bit for bit
    assert "on cpu × 2, sharded" in said["sharded"][0]
    assert "continuing with 1 × 3 parts of a batch instead of 2 sharded × 3" in said["mixed"][0]


@pytest.mark.skipif(not can_shard(), reason="--shard needs a later torch")
def test_a_process_that_fails_or_dies_ends_the_run_with_its_error_said_once(tmp_path) -> None:
    found = in_fresh_process("devices:failing", folder=tmp_path)
    codes, said, steps = found["codes"], found["said"], found["steps"]
    assert codes["whole"] == [0, 0], said["whole"]
    for name, speaks in (("leader", 0), ("other", 1), ("shards", 1)):
        assert codes[name] == [3, 3], (name, said[name])
        assert ["error: cannot read cat.png" in text for text in said[name]] == [rank == speaks for rank in (0, 1)]
        assert "".join(said[name]).count("error:") == 1, said[name]
    assert (steps["leader"], steps["other"]) == (["step-0000006"], ["step-0000006"])  # what was done is kept
    assert codes["killed"] == [6, -9]
    assert said["killed"][0].count("error: another process of this run has ended") == 1
    assert len(steps["killed"]) == 1
    assert max(found["seconds"].values()) < scaled(30)
    assert "Traceback" not in str(said)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes as Linux shows them")
@pytest.mark.parametrize("kernels", ["off", "on"])
def test_torchrun_starts_a_killed_run_again_and_it_ends_as_if_never_killed(tmp_path, kernels) -> None:
    if kernels == "on":
        from ditkit.kernels.library import KernelsUnavailable, open_library

        try:
            open_library()
        except KernelsUnavailable as error:
            pytest.skip(str(error))
    found = in_fresh_process("devices:relaunched", folder=tmp_path, kernels=kernels)
    codes, ends, said = found["codes"], found["ends"], found["said"]
    assert (codes["straight"], codes["killed"]) == ([0, 0], 0), said["killed"]
    assert ends["killed"] == ends["straight"]
    assert said["killed"].count("continuing at step") == 2
    assert ("on cpu × 2, kernels" in said["killed"]) == (kernels == "on"), said["killed"]
    assert codes["wrong"] != 0
    assert said["wrong"].count("error: this machine has no cuda device") == 1
