"""Training: it learns, it resumes to the last bit, it stops and fails in an orderly way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from training_runs import digest, run

from ditkit.checkpoint import loading
from ditkit.config import to_dict
from ditkit.data.batches import Batches
from ditkit.data.resident import BatchTarget
from ditkit.errors import CheckpointError, DataError, MachineError
from ditkit.events import Finished, Sampled, Saved, Started, Stepped, Validated, Warned
from ditkit.io import atomic
from ditkit.runs import manifest
from ditkit.runs.folder import RunFolder
from ditkit.runs.model_info import read_model_info
from ditkit.training import loop
from ditkit.training.loop import train
from ditkit.training.records import by_quarter
from ditkit.training.step import drop_labels


def test_a_run_speaks_saves_samples_and_validates_when_it_should(tiny, tmp_path):
    listener = run(tiny(), tmp_path / "r")
    started = listener.of(Started)[0]
    assert (started.step, started.steps, started.images, started.labels[3]) == (0, 12, 60000, "3")
    assert [event.step for event in listener.of(Stepped)] == list(range(1, 13))
    assert [event.step for event in listener.of(Validated)] == [4, 8, 12]
    assert [event.step for event in listener.of(Sampled)] == [6, 12]
    assert [event.step for event in listener.of(Saved)] == [5, 10, 12]
    assert listener.of(Finished)[0].reason == "done"
    folder = RunFolder(tmp_path / "r")
    assert folder.checkpoint_steps() == [10, 12]  # train.keep = 2
    assert [path.name for _, path in folder.sample_grids()] == ["step-0000006.png", "step-0000012.png"]
    rows = folder.metrics()
    assert {"step", "loss", "grad_norm", "lr", "images_per_second", "memory_mb"} <= set(rows[0])
    assert [row["step"] for row in rows if "validation_loss" in row] == [4, 8, 12]


def test_a_run_with_its_images_on_the_device_ends_as_one_without(tiny, tmp_path, monkeypatch):
    config, asked = tiny(data={"flip": True}), []

    def place(device: torch.device, workers: int) -> BatchTarget:
        asked.append((device.type, workers))
        return BatchTarget(device, 1 << 30, threads=3)

    run(config, tmp_path / "straight")
    run(config, tmp_path / "there", stop_after=5)
    monkeypatch.setattr("ditkit.training.setup.batch_target", place)
    run(config, tmp_path / "there")
    assert asked == [("cpu", 0)]
    assert digest(tmp_path / "straight") == digest(tmp_path / "there")


def test_a_short_run_learns(tiny, tmp_path):
    config = tiny(optim={"lr": 3e-3, "ema_decay": 0.9}, train={"steps": 60, "validate_every": 20, "sample_every": 60})
    losses = [event.loss for event in run(config, tmp_path / "r").of(Validated)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("stops", [[1], [5], [3, 4, 9]], ids=str)
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_stopped_and_continued_equals_never_stopped_to_the_last_bit(tiny, tmp_path, stops, schedule):
    config = tiny(optim={"schedule": schedule}, train={"accumulate": 2}, data={"flip": True})
    run(config, tmp_path / "straight")
    for stop in stops:
        assert run(config, tmp_path / "parts", stop_after=stop).of(Finished)[0].reason == "stopped"
    assert run(config, tmp_path / "parts").of(Started)[0].step == stops[-1]
    assert digest(tmp_path / "parts") == digest(tmp_path / "straight")


def test_a_run_that_was_ended_and_then_lengthened_equals_one_that_was_long_from_the_start(tiny, tmp_path):
    for log_every in (1, 5):
        settings = {"log_every": log_every, "steps": 14}
        run(tiny(train=settings), tmp_path / f"straight{log_every}")
        place = tmp_path / f"lengthened{log_every}"
        run(tiny(train={**settings, "steps": 7}), place)
        assert [row["step"] for row in RunFolder(place).metrics() if "validation_loss" in row] == [4, 7]
        run(tiny(train=settings), place)
        assert digest(place) == digest(tmp_path / f"straight{log_every}")


def test_the_best_checkpoint_and_every_nth_are_kept_beside_the_last(tiny, tmp_path, monkeypatch):
    losses = iter([value for value in (3.0, 1.0, 2.0, 2.5, 2.4, 2.3) for _ in ("ema", "raw")])
    monkeypatch.setattr("ditkit.training.validation_set.ValidationSet.loss", lambda *_: next(losses))
    train_settings = {"steps": 12, "save_every": 2, "validate_every": 2, "keep": 2, "keep_every": 6, "sample_every": 12}
    run(tiny(train=train_settings), tmp_path / "r")
    assert RunFolder(tmp_path / "r").checkpoint_steps() == [4, 6, 10, 12]


def test_every_nth_is_kept_however_seldom_others_are_saved(tiny, tmp_path):
    run(tiny(train={"save_every": 7, "keep_every": 5, "keep": 1, "validate_every": 100}), tmp_path / "r")
    assert RunFolder(tmp_path / "r").checkpoint_steps() == [5, 10, 12]


def test_a_killed_run_continues_from_its_last_checkpoint_to_the_same_end(tiny, tmp_path):
    config = tiny()
    run(config, tmp_path / "straight")

    class Killed(BaseException):
        pass

    def die(event) -> None:
        if isinstance(event, Stepped) and event.step == 8:
            raise Killed

    with pytest.raises(Killed):
        train(config, tmp_path / "killed", die, device="cpu")
    assert run(config, tmp_path / "killed").of(Started)[0].step == 5
    assert digest(tmp_path / "killed") == digest(tmp_path / "straight")


def test_a_damaged_newest_checkpoint_is_set_aside_for_the_one_before(tiny, tmp_path):
    config = tiny()
    run(config, tmp_path / "straight")
    run(config, tmp_path / "r", stop_after=11)
    folder = RunFolder(tmp_path / "r")
    victim = folder.checkpoint(11) / "model.safetensors"
    content = bytearray(victim.read_bytes())
    content[-5] ^= 1
    victim.write_bytes(content)
    continued = run(config, tmp_path / "r")
    assert continued.of(Started)[0].step == 10
    assert [str(victim.parent) in event.text for event in continued.of(Warned)] == [True]
    assert any(path.name.startswith(".corrupt-step-0000011") for path in folder.checkpoints.iterdir())
    assert digest(tmp_path / "r") == digest(tmp_path / "straight")


def test_a_run_whose_every_checkpoint_is_damaged_is_not_restarted(tiny, tmp_path):
    run(tiny(), tmp_path / "r", stop_after=3)
    folder = RunFolder(tmp_path / "r")
    before = folder.metrics_file.read_bytes()
    file = folder.checkpoint(3) / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* is undamaged"):
        run(tiny(), tmp_path / "r")
    assert (folder.checkpoint_steps(), folder.metrics_file.read_bytes()) == ([3], before)
    with pytest.raises(CheckpointError, match="its checksum differs"):  # nor is it sampled from
        loading.load(tmp_path / "r")


def test_every_process_trains_on_the_data_of_the_run_that_the_main_one_has_started(tiny, tmp_path, monkeypatch):
    from ditkit.data.contract import open_datasets
    from ditkit.runs.resume import RunPlan
    from ditkit.runtime.distributed import ProcessGroup

    def hands_on(own, config):
        opened, name = [], f"own{own.data.validation}"
        plan = RunPlan(folder=RunFolder(tmp_path / "r"), config=config, step=0)
        monkeypatch.setattr(ProcessGroup, "broadcast", lambda *_: plan)
        monkeypatch.setattr("ditkit.training.loop.open_session", lambda *args: opened.append(args[-2]) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(own, tmp_path / name, device="cpu", datasets=datasets)
        return opened[0]

    config, other = (tiny(data={"validation": count}) for count in (16, 24))
    datasets = open_datasets(config.data)
    assert hands_on(config, config) is datasets
    assert hands_on(other, config) is None, "opened again"


def test_an_image_that_cannot_be_read_costs_no_step_that_was_done(tiny, tmp_path, monkeypatch):
    original = Batches.batch

    def batch(self, step):
        if step == 7:
            raise DataError("cannot read the image cat.png", "replace it")
        return original(self, step)

    monkeypatch.setattr(Batches, "batch", batch)
    with pytest.raises(DataError, match=r"cat\.png"):
        run(tiny(), tmp_path / "r")
    assert RunFolder(tmp_path / "r").checkpoint_steps() == [5, 7]


def test_accumulation_changes_rounding_only(tiny, tmp_path):
    whole, parts = (run(tiny(train={"accumulate": n}), tmp_path / str(n)).of(Stepped) for n in (1, 4))
    for first, second in zip(whole, parts, strict=True):
        assert first.loss == pytest.approx(second.loss, rel=1e-4)


def test_the_seed_alone_decides_and_the_global_generator_is_left_alone(tiny, tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run(tiny(), tmp_path / "a")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    run(tiny(), tmp_path / "b")
    run(tiny(seed=1), tmp_path / "c")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a")["model.safetensors"] != digest(tmp_path / "c")["model.safetensors"]


def test_out_of_time_saves_and_says_so(tiny, tmp_path):
    listener = run(tiny(), tmp_path / "r", max_seconds=0.0)
    assert listener.of(Finished)[0].reason == "time"
    assert RunFolder(tmp_path / "r").checkpoint_steps() == [listener.of(Stepped)[-1].step]


def test_the_time_that_a_run_has_begins_with_the_call(tiny, tmp_path, monkeypatch):
    now, real = [0.0], loop.join

    def slow(device):
        now[0] += 100
        return real(device)

    monkeypatch.setattr(loop, "join", slow)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    assert len(run(tiny(), tmp_path / "late", max_seconds=60).of(Stepped)) == 1
    assert run(tiny(), tmp_path / "in time", max_seconds=160).of(Finished)[0].reason == "done"


def test_steps_are_timed_by_a_clock_that_ticks_fast_enough(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.time, "monotonic", lambda: 0.0)  # on Windows it stays so for 16 milliseconds
    assert all(0 < event.images_per_second < 1e7 for event in run(tiny(), tmp_path / "r").of(Stepped))


def test_changed_images_are_noticed(tiny, tmp_path):
    run(tiny(), tmp_path / "r", stop_after=2)
    state = RunFolder(tmp_path / "r").checkpoint(2) / "state.json"
    tree = json.loads(state.read_text())
    state.write_text(json.dumps({**tree, "fingerprint": "other"}))
    files = {**manifest.read(state.parent), "state.json": atomic.describe(state.read_bytes())}
    state.with_name(manifest.NAME).write_bytes(manifest.write(2, files))
    with pytest.raises(DataError, match="these are not the images") as caught:
        run(tiny(), tmp_path / "r")
    assert "--force-change images" in str(caught.value.hint)
    assert run(tiny(), tmp_path / "r", force_change=["images"]).of(Started)[0].step == 2


def test_a_weights_file_describes_itself(tiny, tmp_path):
    config = tiny()
    run(config, tmp_path / "r", stop_after=3)
    for ema, name in ((True, "ema"), (False, "model")):
        trained = loading.load(tmp_path / "r", ema=ema)
        assert (trained.info.config, trained.info.step, trained.info.weights) == (config, 3, name)
        assert trained.info.labels == tuple("0123456789")
    assert to_dict(read_model_info(trained.source).config) == to_dict(config)


def test_loading_reads_the_weights_that_are_asked_for_and_no_others(tiny, tmp_path, monkeypatch):
    run(tiny(), tmp_path / "r", stop_after=3)
    opened, real_open = [], os.open

    def note(path, *rest, **more):
        opened.append(Path(path).name)
        return real_open(path, *rest, **more)

    monkeypatch.setattr(os, "open", note)
    for ema, name in ((True, "ema"), (False, "model")):
        opened.clear()
        loading.load(tmp_path / "r", ema=ema)
        assert f"{name}.safetensors" in opened
        assert not {"ema.safetensors", "model.safetensors", "optimizer.safetensors"} - {f"{name}.safetensors"} & {
            *opened
        }


def test_checkpoints_that_are_truncated_or_foreign_are_one_clear_error(tiny, tmp_path):
    run(tiny(), tmp_path / "r", stop_after=3)
    file = RunFolder(tmp_path / "r").checkpoint(3) / "ema.safetensors"
    content = file.read_bytes()
    for damaged in (content[:1000], content[: len(content) // 2], b"", b"<html>no</html>", content[:-4]):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            loading.load(file)


def test_a_failing_disk_leaves_the_older_checkpoint_and_no_leftover_files(tiny, tmp_path, monkeypatch):
    def full(path, content):
        if path.name == "optimizer.safetensors" and "step-0000010" in str(path):
            raise OSError(28, "No space left on device")
        return original(path, content)

    original = atomic.write_synced
    monkeypatch.setattr(atomic, "write_synced", full)
    with pytest.raises(MachineError, match="No space left on device"):
        run(tiny(), tmp_path / "r")
    folder = RunFolder(tmp_path / "r")
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-0000005"]
    manifest.verify(folder.checkpoint(5))


def test_labels_are_dropped_at_the_asked_rate_and_to_the_null_label():
    label_B = torch.arange(10).repeat(1000)
    dropped = drop_labels(label_B, 10, 0.1, seed=0, step=3)
    assert 0.09 < float((dropped == 10).float().mean()) < 0.11
    assert torch.equal(dropped[dropped != 10], label_B[dropped != 10])
    assert not torch.equal(dropped, drop_labels(label_B, 10, 0.1, seed=0, step=4))


def test_losses_by_quarter_of_the_noise_range():
    quarters = by_quarter(torch.tensor([1.0, 3.0, 5.0, 7.0]), torch.tensor([0.0, 0.2, 0.6, 1.0]))
    assert quarters == {"loss_q1": 2.0, "loss_q3": 5.0, "loss_q4": 7.0}


@pytest.mark.parametrize("conditioning", ["in-context", "cross-attention", "adaln", "adaln-zero"])
@pytest.mark.parametrize("objective", ["epsilon", "v", "learned-sigma", "velocity"])
def test_every_conditioning_trains_with_every_kind_of_objective(tiny, tmp_path, conditioning, objective):
    diffusion = {
        "objective": objective,
        "weighting": "none",
        "process": "flow" if objective == "velocity" else "diffusion",
    }
    sampler = "flow-euler" if objective == "velocity" else "ddim"
    config = tiny(
        model={"conditioning": conditioning, "learned_sigma": objective == "learned-sigma"},
        diffusion=diffusion,
        sample={"sampler": sampler},
        train={"steps": 3, "sample_every": 3, "validate_every": 3},
    )
    listener = run(config, tmp_path / "r")
    assert all(event.loss > 0 for event in listener.of(Stepped))
    assert (tmp_path / "r" / "samples" / "step-0000003.png").is_file()


@pytest.mark.parametrize(("schedule", "stop", "warned"), [("linear", 8, 1), ("constant", 8, 0), ("linear", 1, 0)])
def test_a_run_made_longer_says_once_that_its_schedule_is_another(tiny, tmp_path, schedule, stop, warned):
    run(tiny(optim={"schedule": schedule, "warmup_steps": 2}), tmp_path / "run", stop_after=stop)
    longer = tiny(optim={"schedule": schedule, "warmup_steps": 2}, train={"steps": 20})
    texts = [event.text for event in run(longer, tmp_path / "run", stop_after=stop + 1).of(Warned)]
    assert len(texts) == warned and all("falls over 20 steps from now on, not 12" in text for text in texts)
    assert not run(longer, tmp_path / "run").of(Warned)
