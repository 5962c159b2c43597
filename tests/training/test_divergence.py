"""Steps that go wrong: they are skipped, counted, gone back from, and in the end reported."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from training_runs import digest, run

from ditkit.checkpoint import loading
from ditkit.errors import DivergedError, MachineError
from ditkit.events import Finished, Saved, Started, Stepped, Validated, Warned
from ditkit.runs.folder import RunFolder
from ditkit.runs.run_state import LossHealth
from ditkit.training import loop
from ditkit.training import step as training_step
from ditkit.training.loop import train


def poison(monkeypatch, when) -> None:
    """Spoil the gradients of every step for which `when(step, rollbacks)`."""
    original = training_step.compute_gradients

    def spoiled(worker, step, batch, stream, flags, on_less):
        seen = original(worker, step, batch, stream, flags, on_less)
        rollbacks = int(stream.partition("/")[2] or 0)
        if when(step, rollbacks):
            next(worker.network.parameters()).grad.fill_(float("nan"))
        return seen

    monkeypatch.setattr(loop, "compute_gradients", spoiled)


def test_a_bad_step_is_skipped_and_counted_and_leaves_everything_finite(tiny, tmp_path, monkeypatch):
    poison(monkeypatch, lambda step, _: step == 7)
    listener = run(tiny(), tmp_path / "r")
    assert listener.of(Finished)[0].reason == "done"
    assert [event.text for event in listener.of(Warned)] == ["step 8 is skipped: the gradient is not finite"]
    rows = RunFolder(tmp_path / "r").metrics()
    assert [row["step"] for row in rows if "skipped" in row] == [8]
    assert "grad_norm" not in rows[[row.get("skipped") for row in rows].index(1.0)]
    incidents = [json.loads(line) for line in (tmp_path / "r/incidents.jsonl").read_text().splitlines()]
    assert [(one["step"], one["what"]) for one in incidents] == [(8, "skipped")]
    for ema in (True, False):
        network = loading.load(tmp_path / "r", ema=ema).network
        assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_a_skipped_step_changes_nothing(tiny, tmp_path, monkeypatch):
    poison(monkeypatch, lambda step, _: step == 5)
    run(tiny(), tmp_path / "r", stop_after=5)
    before = digest(tmp_path / "r")
    run(tiny(), tmp_path / "r", stop_after=6)
    after = digest(tmp_path / "r")
    same = ("optimizer.safetensors",)  # the others carry their step in their card
    assert {name: before[name] for name in same} == {name: after[name] for name in same}
    first, second = (loading.read_tensors(RunFolder(tmp_path / "r").checkpoint(n) / "ema.safetensors") for n in (5, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_several_bad_steps_in_a_row_go_back_with_other_noise_and_half_the_rate(tiny, tmp_path, monkeypatch):
    poison(monkeypatch, lambda step, rollbacks: step >= 6 and rollbacks == 0)
    listener = run(tiny(train={"max_skips": 3}), tmp_path / "r")
    assert listener.of(Finished)[0].reason == "done"
    assert "back to step 5, with other noise and 0.5 of the learning rate (time 1 of 3)" in listener.of(Warned)[-1].text
    steps_taken = [event.step for event in listener.of(Stepped)]
    assert steps_taken == [*range(1, 10), *range(6, 13)]
    rows = [row for row in RunFolder(tmp_path / "r").metrics() if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert rows[4]["lr"] == 2 * rows[5]["lr"]
    assert not any("skipped" in row for row in rows)
    incidents = [json.loads(line)["what"] for line in (tmp_path / "r/incidents.jsonl").read_text().splitlines()]
    assert incidents == ["skipped"] * 3 + ["went back"]
    assert [event.step for event in listener.of(Saved)] == [5, 10, 12]


def test_before_the_first_checkpoint_it_goes_back_to_the_beginning(tiny, tmp_path, monkeypatch):
    poison(monkeypatch, lambda step, rollbacks: step >= 2 and rollbacks == 0)
    listener = run(tiny(train={"max_skips": 2}), tmp_path / "r")
    assert listener.of(Finished)[0].reason == "done"
    assert [event.step for event in listener.of(Stepped)] == [*range(1, 5), *range(1, 13)]


def test_it_goes_back_to_the_weights_that_it_began_with_also_when_these_are_gone(tiny, tmp_path, monkeypatch):
    run(tiny(), tmp_path / "first", stop_after=5)
    begun = RunFolder(tmp_path / "first").checkpoint(5) / "ema.safetensors"
    config = tiny(train={"max_skips": 2, "init_from": str(begun)})
    seen = []

    def gone(step: int, rollbacks: int) -> bool:
        seen.append(rollbacks)
        begun.unlink(missing_ok=True)
        return step >= 2 and rollbacks == 0

    poison(monkeypatch, gone)
    assert run(config, tmp_path / "r").of(Finished)[0].reason == "done" and seen[-1] == 1


def test_when_going_back_does_not_help_it_stops_with_a_report(tiny, tmp_path, monkeypatch):
    poison(monkeypatch, lambda step, _: step >= 7)
    with pytest.raises(
        DivergedError, match=r"diverged at step 9: .* after going back 2 times.*step 5 is kept"
    ) as caught:
        run(tiny(train={"max_skips": 2, "rollbacks": 2}), tmp_path / "r")
    assert caught.value.exit_code == 5 and "--lr" in str(caught.value.hint)
    report = json.loads((tmp_path / "r/diverged-step-0000009.json").read_text())
    assert report["positions"] == [128, 144] and len(report["timesteps"]) == len(report["losses"]) == 16
    norms = {name: layer["gradient_norm"] for name, layer in report["layers"].items()}
    assert next(iter(norms.values())) == "nan" and sum(norm == "nan" for norm in norms.values()) == 1
    assert RunFolder(tmp_path / "r").checkpoint_steps() == [5]
    network = loading.load(tmp_path / "r", ema=False).network
    assert all(parameter.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("stops", [[7], [8], [6, 9]], ids=str)
def test_a_run_with_skips_and_a_way_back_also_continues_to_the_last_bit(tiny, tmp_path, monkeypatch, stops):
    poison(monkeypatch, lambda step, rollbacks: step == 3 or (6 <= step < 8 and rollbacks == 0))
    config = tiny(train={"max_skips": 2, "save_every": 2, "keep": 9})
    run(config, tmp_path / "straight")

    class Killed(BaseException):
        pass

    for stop in stops:

        def die(event, stop=stop) -> None:
            if isinstance(event, Stepped) and event.step == stop:
                raise Killed

        with pytest.raises(Killed):
            train(config, tmp_path / "killed", die, device="cpu")
    run(config, tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "straight")
    assert (tmp_path / "killed/incidents.jsonl").read_bytes() == (tmp_path / "straight/incidents.jsonl").read_bytes()


def test_a_spike_is_a_loss_far_above_its_running_mean_and_only_after_a_while():
    recovery = LossHealth()
    assert recovery.diagnose(1e9, 1.0, 20) is None
    for _ in range(60):
        recovery = recovery.accepted(1.0)
    assert recovery.diagnose(19.0, 1.0, 20) is None
    assert recovery.diagnose(21.0, 1.0, 20) == "the loss is 21 times its mean"
    for loss, norm in ((float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan")), (1.0, float("inf"))):
        assert "not finite" in str(LossHealth().diagnose(loss, norm, 20))
    assert (recovery.skipped_step().skipped_step().skips, recovery.skipped_step().accepted(1.0).skips) == (2, 0)
    other = recovery.with_other_losses()
    assert other.diagnose(1000.0, 1.0, 20) is None and other.accepted(1000.0).loss == 1000.0


def test_a_forced_change_of_what_a_loss_is_makes_no_step_a_spike(tiny, tmp_path):
    run(tiny(train={"steps": 57, "sample_every": 100, "validate_every": 100}), tmp_path / "r")
    state = saved_state(tmp_path / "r")
    assert state["recovery"]["learnt"] == 57
    config = tiny(train={"steps": 60, "sample_every": 100, "validate_every": 100})
    config = replace(config, diffusion=replace(config.diffusion, weighting="none"))
    run(config, tmp_path / "r", force_change=["diffusion.weighting"])
    assert saved_state(tmp_path / "r")["recovery"]["learnt"] == 3


def saved_state(folder):
    """What the newest checkpoint says of the run."""
    return json.loads(max((folder / "checkpoints").glob("step-*/state.json")).read_text(encoding="utf-8"))


def test_a_spike_of_the_loss_is_not_learnt_from(tiny, tmp_path, monkeypatch):
    original = training_step.compute_gradients

    def spiking(worker, step, *others):
        seen = original(worker, step, *others)
        if step == 55:
            seen.loss_B.mul_(1000)
        return seen

    monkeypatch.setattr(loop, "compute_gradients", spiking)
    config = tiny(train={"steps": 57, "save_every": 50, "sample_every": 57, "validate_every": 57})
    listener = run(config, tmp_path / "r")
    (warning,) = listener.of(Warned)
    assert warning.text.startswith("step 56 is skipped: the loss is ")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["cuda", "cpu", "cublas"],
)
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(tiny, tmp_path, monkeypatch, error):
    whole = run(tiny(), tmp_path / "whole")
    original = training_step._gradients_of_share

    def greedy(worker, tensors, total):
        if len(tensors[0]) / worker.micro_batches > 4:
            raise error
        return original(worker, tensors, total)

    monkeypatch.setattr(training_step, "_gradients_of_share", greedy)
    listener = run(tiny(), tmp_path / "r", stop_after=3)
    assert [event.text.partition(": ")[2] for event in listener.of(Warned)] == [
        "batches are now split into 2 parts",
        "batches are now split into 4 parts",
    ]
    for ours, theirs in zip(listener.of(Stepped), whole.of(Stepped), strict=False):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
    again = run(tiny(), tmp_path / "r")  # it begins with what fitted
    assert again.of(Warned) == [] and again.of(Started)[0].step == 3


def test_memory_for_not_even_one_image_is_one_clear_error(tiny, tmp_path, monkeypatch):
    def greedy(worker, tensors, total):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training_step, "_gradients_of_share", greedy)
    with pytest.raises(MachineError, match="out of memory with one image at a time"):
        run(tiny(), tmp_path / "r")


def test_another_accumulation_continues_with_the_same_case_and_says_that_rounding_differs(tiny, tmp_path):
    straight = run(tiny(), tmp_path / "straight")
    run(tiny(), tmp_path / "r", stop_after=6)
    listener = run(tiny(train={"accumulate": 4}), tmp_path / "r")
    (warning,) = listener.of(Warned)
    assert "instead of 1 × 1: same images, noise and timesteps, only rounding differs" in warning.text
    for ours, theirs in zip(listener.of(Stepped), straight.of(Stepped)[6:], strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)


def test_images_that_cannot_be_read_are_replaced_listed_and_limited(tiny, tmp_path, monkeypatch):
    from ditkit.data.sources.idx import IdxImages
    from ditkit.errors import DataError

    original = IdxImages.__getitem__

    def broken(self, index):
        if len(self) > 1000 and index % self_every == 0:
            raise DataError(f"cannot read the image {index}.png: it is damaged")
        return original(self, index)

    monkeypatch.setattr(IdxImages, "__getitem__", broken)
    self_every = 20
    listener = run(tiny(data={"max_bad": 0.001}), tmp_path / "r")
    assert listener.of(Finished)[0].reason == "done"
    listed = (tmp_path / "r/bad_files.txt").read_text().splitlines()
    assert 2 <= len(listed) <= 30 and all(line.endswith("png: it is damaged") for line in listed)
    assert len(set(listed)) == len(listed)
    run(tiny(data={"max_bad": 0.001}), tmp_path / "parts", stop_after=5)
    run(tiny(data={"max_bad": 0.001}), tmp_path / "parts")
    assert digest(tmp_path / "parts") == digest(tmp_path / "r")
    assert (tmp_path / "parts/bad_files.txt").read_text().splitlines() == listed
    with pytest.raises(DataError, match=r"\d of 60000 images cannot be read") as caught:
        run(tiny(data={"max_bad": 0.0}), tmp_path / "none")
    assert "bad_files.txt" in str(caught.value.hint)


def test_held_out_images_that_cannot_be_read_are_left_out_and_listed(tiny, tmp_path, monkeypatch):
    from ditkit.data.sources.idx import IdxImages
    from ditkit.errors import DataError

    original = IdxImages.__getitem__

    def broken(self, index):
        if len(self) < 1000 and index in (3, 5):
            raise DataError(f"cannot read the image {index}.png: it is damaged")
        return original(self, index)

    monkeypatch.setattr(IdxImages, "__getitem__", broken)
    listener = run(tiny(), tmp_path / "r")
    assert listener.of(Finished)[0].reason == "done" and listener.of(Validated)
    listed = (tmp_path / "r/bad_files.txt").read_text().splitlines()
    assert listed == [f"cannot read the image {index}.png: it is damaged" for index in (3, 5)]
