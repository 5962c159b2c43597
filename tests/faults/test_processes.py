"""Several processes train one run as one would, and together stop, die and continue."""

from __future__ import annotations

import signal

import pytest
from harness import in_fresh_process

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs fork and POSIX signals")


@pytest.mark.faults
def test_two_gloo_processes_stop_die_and_continue_as_if_never_stopped(tmp_path) -> None:
    found = in_fresh_process("processes:several_processes", folder=tmp_path)
    codes, ends, said = found["codes"], found["ends"], found["said"]
    for name in codes:
        assert codes[name][-1] == ([0] if name in ("alone", "narrowed") else [0, 0]), said[name]
    assert codes["killed"][0] == [-9, -9]
    assert codes["parts"][1] == [7, 7] and "runs/parts is in use by pid" in said["parts"]  # neither waits
    assert codes["signalled"][0] == [143, 143], said["signalled"]
    for name in ("parts", "workers", "killed", "signalled"):
        assert {key: ends[name].get(key) for key in ends["two"]} == ends["two"], name
    assert "continuing with 1 × 1 parts of a batch instead of 2 × 1" in said["narrowed"]
    assert "Traceback" not in "".join(said.values())
    assert said["two"].count("training two") == 1  # one process speaks


@pytest.mark.faults
def test_processes_draw_together_what_one_draws_alone_and_fail_as_one(tmp_path) -> None:
    found = in_fresh_process("processes:several_draw", folder=tmp_path)
    codes, images, said = found["codes"], found["images"], found["said"]
    assert len(images["by 1"]) == 8 and codes["by 1"] == [0], said["by 1"]
    for size in (2, 3):
        assert codes[f"by {size}"] == [0] * size, said[f"by {size}"]
        assert images[f"by {size}"] == images["by 1"]  # to the last byte
        assert [bool(one) for one in said[f"by {size}"]] == [True] + [False] * (size - 1)  # one process speaks
    for name, code, words in (
        ("no model", 2, "run 'nowhere'"),
        ("no label", 2, "error: unknown label 'cat'"),
        ("no memory", 6, "error: out of memory"),
        ("no disk", 6, "no space left on device"),
        ("killed", 6, "error: another process of this run has ended"),
    ):
        speaks = 0 if name in ("no disk", "killed") else 1
        assert codes[name] == ([code, -9] if name == "killed" else [code, code]), said[name]
        assert words in said[name][speaks] and "error" not in said[name][1 - speaks], said[name]
        assert "Traceback" not in "".join(said[name])


def test_the_gradients_of_two_shares_add_up_to_those_of_the_whole_batch(tiny, monkeypatch) -> None:
    import torch

    from ditkit.data.batches import Batches
    from ditkit.data.contract import open_dataset
    from ditkit.kernels.choice import Compute
    from ditkit.objectives.contract import open_objective
    from ditkit.runtime.distributed import ProcessGroup
    from ditkit.training import step
    from ditkit.training.init_weights import fresh_network

    config, cpu = tiny(), torch.device("cpu")
    dataset = open_dataset(config.data, "train")
    monkeypatch.setattr(ProcessGroup, "all_reduce_", lambda *_: None)  # the sum is taken here

    def gradients(group: ProcessGroup) -> dict[str, torch.Tensor]:
        network = fresh_network(config, 10, cpu)
        objective = open_objective(config.diffusion)
        nouns = {"config": config, "network": network, "objective": objective, "device": cpu, "group": group}
        context = step.StepContext(**nouns, compute=Compute(dtype=torch.float32), micro_batches=1)
        batch = Batches(dataset, 16, config.seed, share=group.shard(16)).batch(3)
        result = step.compute_gradients(context, 3, batch, "noise", lambda: [False], lambda: None)
        found = {name: one.grad for name, one in network.named_parameters() if one.grad is not None}
        return {**found, "losses": result.loss_B}

    whole, first, second = gradients(ProcessGroup()), gradients(ProcessGroup(0, 2)), gradients(ProcessGroup(1, 2))
    assert whole.keys() == first.keys() == second.keys()
    for name, value in whole.items():
        torch.testing.assert_close(first[name] + second[name], value, rtol=1e-4, atol=1e-6)
