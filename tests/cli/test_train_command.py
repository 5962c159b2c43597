"""Command lines that really train and draw, with a network that is too small to learn anything."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import said
from patience import Limit, scaled
from PIL import Image

from ditkit import __main__, recipes
from ditkit.cli import app
from ditkit.cli.train import _prepared
from ditkit.cli.train_options import Optimiser, TrainDevice
from ditkit.data.contract import open_datasets
from ditkit.runs import folder as run_folder
from ditkit.runs.folder import RunFolder
from ditkit.runs.target import ResolvedRun
from ditkit.runtime import clock
from ditkit.runtime.signals import StopRequest, stop_on_signals

TINY = (
    "--set model.patch=7 --set model.width=32 --set model.depth=1 --set model.heads=2 --set data.validation=8 "
    "--set sample.steps=2 --set train.sample_every=3 --set train.sample_columns=1 --set train.validate_every=3 "
    "--set optim.warmup_steps=100 --set sample.sampler=flow-heun --batch-size 8 --device cpu"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run of six steps has been trained."""
    place = tmp_path_factory.mktemp("home")
    before = Path.cwd()
    os.chdir(place)
    try:
        assert app.main(f"train mnist --steps 6 --quiet {TINY}".split()) == 0
    finally:
        os.chdir(before)
    return place


@pytest.fixture(autouse=True)
def _in_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


# --- train


def test_quiet_training_leaves_a_whole_run(home: Path) -> None:
    run = RunFolder(home / "runs/mnist")
    assert run.checkpoint_steps() == [6]
    assert [step for step, _ in run.sample_grids()] == [3, 6]
    assert len([row for row in run.metrics() if "loss" in row]) == 6


def test_training_says_what_it_does_and_what_to_type_next(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, f"train mnist --name told --steps 3 {TINY}")
    warning, *lines = err.splitlines()
    assert (code, out) == (0, "")
    assert warning.startswith("warning: the learning rate reaches 1.8e-04, not 6.0e-03: the warm-up of 100 steps")
    assert lines[0].startswith(
        "training told: 34,209 parameters on cpu (float32), 60,000 images, 10 labels, in runs/told"
    )
    first = f"lr {recipes.load('mnist').optim.lr / 100:.2e}"
    assert lines[1].startswith("step 1/3  loss ") and "images/s" in lines[1] and first in lines[1]
    assert "step 3: samples in runs/told/samples/step-0000003.png" in lines
    assert lines[-2].startswith("done: 3 steps in ") and lines[-2].endswith(", in runs/told")
    assert lines[-1] == "next: `ditkit sample --labels 0 1 2 3 4 5 6 7 8 9`"


def test_a_finished_run_says_so_and_how_to_train_on(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, f"train mnist --steps 6 {TINY}")
    assert code == 0
    assert err == (
        "runs/mnist is finished: 6 steps\n"
        "train on with `ditkit train runs/mnist --steps 12`, or start a new run with --fresh\n"
    )


def test_a_run_that_another_process_holds_is_finished_refused_or_busy_as_its_settings_say(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditkit.runs.folder.try_lock", lambda _: False)
    leftover = home / "runs/mnist/.config.toml.0123abcd.tmp"
    leftover.touch()
    code, _, err = said(capsys, f"train mnist --steps 6 {TINY}")
    assert (code, err.splitlines()[0], leftover.exists()) == (0, "runs/mnist is finished: 6 steps", True)
    leftover.unlink()
    code, _, err = said(capsys, f"train mnist --steps 9 --seed 5 {TINY}")
    assert code == 2 and err.startswith("error: runs/mnist was started with seed = 0 (now 5)\n")
    code, _, err = said(capsys, f"train mnist --steps 9 {TINY}")
    assert code == 7 and "error: runs/mnist is in use by " in err


def test_fewer_steps_than_an_unfinished_run_has_done_do_not_finish_it(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert said(capsys, f"train mnist --name past --steps 3 --quiet {TINY}")[0] == 0
    folder = RunFolder(home / "runs/past")
    config = folder.read_config()
    folder.write_config(replace(config, train=replace(config.train, steps=50)))
    code, _, err = said(capsys, "train runs/past --steps 2")
    assert code == 0 and folder.checkpoint_steps()[-1] == 3
    assert err == (
        "runs/past is at step 3 of 50, past --steps 2\n"
        "continue with `ditkit train runs/past`, or start a new run with --fresh\n"
    )


def test_a_changed_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, f"train mnist --steps 6 --seed 5 {TINY}")
    assert code == 2
    assert err.startswith("error: runs/mnist was started with seed = 0 (now 5)\nhint: continue it with")


def test_a_run_folder_continues_with_its_own_settings(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert said(capsys, f"train mnist --name longer --steps 3 --quiet {TINY}")[0] == 0
    code, _, err = said(capsys, "train runs/longer --steps 5 --device cpu")
    assert code == 0
    assert err.startswith("continuing at step 3 of longer")
    assert RunFolder(home / "runs/longer").checkpoint_steps()[-1] == 5
    assert said(capsys, "train longer --device cpu --quiet") == (0, "", "")


def test_data_sets_and_settings_are_read_once_and_the_run_is_claimed_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def count(place: str, describe: Callable[..., str]) -> None:
        module, _, name = place.rpartition(".")
        function = getattr(importlib.import_module(module), name)

        def counted(*args, **options):
            calls.append(describe(*args))
            return function(*args, **options)

        monkeypatch.setattr(place, counted)

    count("ditkit.data.mnist.dataset", lambda config, split: split)
    count("ditkit.recipes.parse", lambda path, *_: path.name)
    count("ditkit.runs.resume.start_or_resume", lambda *_: "start_or_resume")
    count("ditkit.training.loop.start_or_resume", lambda *_: "start_or_resume")
    assert said(capsys, f"train mnist --name once --steps 2 --quiet {TINY}")[0] == 0
    once = ["config.toml", "start_or_resume", "train", "validation"]
    assert sorted({*calls}) == sorted([*once, "mnist.toml"])
    assert [calls.count(call) for call in once] == [1, 1, 1, 1], "what is written is read under the lock"
    calls.clear()
    run_folder._parse_config.cache_clear()  # as in a new process
    assert said(capsys, "train once --steps 4 --batch-size auto --quiet --device cpu")[0] == 0
    assert sorted(calls) == once


def test_drawing_checks_labels_and_finds_and_describes_the_weights_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    once = ("split_labels", "resolve_labels", "find_weights", "read_model_info", "load_weights")
    calls: list[str] = []

    def heard(frame, event, _):
        if event == "call" and frame.f_code.co_name in once:
            calls.append(frame.f_code.co_name)

    sys.setprofile(heard)
    try:
        code = said(capsys, f"sample --model mnist --labels 3 7 --steps 2 --device cpu --out {tmp_path / 'drawn'}")[0]
    finally:
        sys.setprofile(None)
    assert (code, sorted(calls)) == (0, sorted(once))


def test_all_processes_see_alike_whether_a_run_is_finished(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(shutil.copytree(home / "runs/mnist", tmp_path / "alike"))
    resolved = ResolvedRun(config=run.read_config(), folder=run)
    datasets = open_datasets(resolved.config.data)

    def is_finished() -> bool:
        return _prepared(resolved, Optimiser(), TrainDevice(), datasets, StopRequest(), quiet=True).finished

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert is_finished()
    (run.checkpoint(run.last_step()) / "model.safetensors").write_bytes(b"damaged")
    assert not is_finished()


def test_fresh_begins_beside_the_old_run(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert said(capsys, f"train mnist --steps 1 --fresh --quiet {TINY}") == (0, "", "")
    assert RunFolder(home / "runs/mnist-2").checkpoint_steps() == [1]
    assert RunFolder(home / "runs/mnist").checkpoint_steps() == [6]


@pytest.mark.parametrize("name", ["TORCHELASTIC_MAX_RESTARTS", "SLURM_RESTART_COUNT"])
def test_fresh_is_refused_where_a_launcher_begins_again(
    name: str, capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "2")
    code, _, err = said(capsys, f"train mnist --steps 1 --fresh {TINY}")
    assert code == 2 and "--fresh would start a new run whenever this one is started again" in err
    assert "--name" in err


def test_dry_run_prints_settings_and_cost_and_leaves_nothing(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, out, err = said(capsys, f"train mnist --name dry --steps 7 --lr 2e-4 --seed 3 --dry-run {TINY}")
    (home / "dry.toml").write_text(out, encoding="utf-8")
    config = recipes.build(recipes.parse(home / "dry.toml"))
    assert code == 0
    assert (config.train.steps, config.train.batch_size, config.optim.lr, config.seed) == (7, 8, 2e-4, 3)
    assert "would train runs/dry" in err and "10 labels, 60,000 images" in err
    assert not (home / "runs/dry").exists()


def test_flags_win_over_files_and_set_over_flags(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    (home / "mine.toml").write_text("seed = 1\n[train]\nsteps = 2\nbatch_size = 3\n", encoding="utf-8")
    line = "train mnist --config mine.toml --batch-size 4 --seed 2 --set seed=9 --dry-run --quiet"
    code, out, err = said(capsys, line)
    (home / "shown.toml").write_text(out, encoding="utf-8")
    config = recipes.build(recipes.parse(home / "shown.toml"))
    assert (code, err) == (0, "")
    assert (config.train.steps, config.train.batch_size, config.seed) == (2, 4, 9)


def test_training_stops_when_its_time_is_up(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, _, err = said(capsys, f"train mnist --name timed --steps 100000 --max-time 0.3s {TINY}")
    step = RunFolder(home / "runs/timed").checkpoint_steps()[-1]
    assert code == 0
    last = f"out of time at step {step} of 100000, all saved; continue with `ditkit train runs/timed`"
    assert err.splitlines()[-1] == last


def test_the_time_of_a_command_counts_from_its_beginning(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "start", lambda: monkeypatch.setattr(clock, "_began", time.monotonic() - 3000))
    code, _, err = said(capsys, f"train mnist --name late --steps 3 --max-time 40m {TINY}")
    assert (code, RunFolder(home / "runs/late").checkpoint_steps()) == (0, [1])
    assert "out of time at step 1 of 3" in err


def test_a_command_begins_before_anything_large_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_began", None)
    monkeypatch.setattr(app, "main", lambda: 7 if clock.left(60) != 60 else 0)
    assert __main__.main() == 7


def test_a_folder_of_images_trains_and_draws_without_labels(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    (home / "My photos").mkdir()
    for index in range(12):
        Image.fromarray(np.full((16, 16, 3), 20 * index, np.uint8)).save(home / f"My photos/{index}.png")
    tiny = f"{TINY} --set data.image_size=16 --set model.patch=8 --set data.validation=2 --quiet".split()
    assert app.main(["train", "./My photos", "--steps", "2", *tiny]) == 0
    code, out, _ = said(capsys, "sample --model my-photos --labels any*3 --out drawn --json --device cpu")
    assert code == 0
    paths = [str(Path("drawn") / f"00{index}.png") for index in range(3)]
    expected = [{"path": path, "label": None, "seed": index} for index, path in enumerate(paths)]
    assert json.loads(out) == {"images": expected, "grid": str(Path("drawn/grid.png"))}


def test_lr_auto_measures_once_and_keeps_the_rate(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ditkit.estimation.lr_finder import LRCurve

    found = iter([1.5e-3])

    def find_lr(config, **_):
        return LRCurve(rates=[1.0], losses=[1.0], smoothed=[1.0], suggestion=next(found), lowest=1.0)

    monkeypatch.setattr("ditkit.estimation.lr_finder.find_lr", find_lr)
    code, _, err = said(capsys, f"train mnist --name auto --steps 1 --lr auto {TINY}")
    assert code == 0
    assert "learning rate: 1.50e-03, measured" in err
    assert RunFolder(home / "runs/auto").read_config().optim.lr == 1.5e-3
    assert said(capsys, f"train mnist --name auto --steps 2 --lr auto --quiet {TINY}") == (0, "", "")


@pytest.mark.parametrize("words", ["", "--dry-run --quiet"])
def test_lr_auto_notices_that_every_checkpoint_is_damaged_before_anything_is_printed(
    words: str, capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path
) -> None:
    run = RunFolder(shutil.copytree(home / "runs/mnist", tmp_path / "damaged"))
    (run.checkpoint(6) / "state.json").write_bytes(b"damaged")
    code, out, err = said(capsys, f"train {run.path} --steps 9 --lr auto {words} {TINY}")
    assert (code, out) == (4, "") and err.startswith(f"error: no checkpoint of {run.path} is undamaged: ")


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking it")
def test_sigterm_saves_says_how_to_continue_and_exits_with_143(home: Path) -> None:
    command = [sys.executable, "-m", "ditkit", *f"train mnist --name ended --steps 100000 {TINY}".split()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=home) as process:
        limit = Limit(60)
        metrics = home / "runs/ended/metrics.jsonl"
        while not (metrics.exists() and metrics.read_bytes()) and not limit.is_over():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=scaled(60))
    step = RunFolder(home / "runs/ended").checkpoint_steps()[-1]
    assert process.returncode == 143
    assert "finishing this step and saving; once more to stop at once" in err
    assert err.splitlines()[-1].startswith(f"stopped at step {step} of 100000, all saved; continue with `ditkit train")
    assert "Traceback" not in err


def test_the_second_signal_ends_at_once_and_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as caught, stop_on_signals() as stop:
        assert (stop(), stop.exit_code) == (False, 0)
        signal.raise_signal(signal.SIGTERM)
        assert (stop(), stop.exit_code) == (True, 143)
        signal.raise_signal(signal.SIGINT)
    assert caught.value.code == 130
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# --- sample


def test_sample_prints_one_json_object_and_images_say_where_they_come_from(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    line = "sample --model mnist --labels 3 1,4 --seed 7 --guidance 3 --out told-by-json --json --device cpu"
    code, out, err = said(capsys, line)
    paths = [str(Path("told-by-json") / name) for name in ("000-3.png", "001-1.png", "002-4.png")]
    rows = zip(paths, "314", (7, 8, 9), strict=True)
    images = [{"path": path, "label": label, "seed": seed} for path, label, seed in rows]
    assert (code, err) == (0, "")
    assert json.loads(out) == {"images": images, "grid": str(Path("told-by-json/grid.png"))}
    with Image.open(home / paths[1]) as picture:
        text = dict(picture.info)
        assert picture.size == (28, 28)
    checkpoint = str(Path("runs/mnist/checkpoints/step-0000006/ema.safetensors"))
    expected = {"label": "1", "seed": "8", "checkpoint": checkpoint, "step": "6", "sampler": "flow-heun"}
    assert {key: text[key] for key in expected} == expected
    assert (text["steps"], text["guidance"]) == ("2", "3")
    with Image.open(home / "told-by-json/grid.png") as picture:
        assert picture.width > 3 * 28


def test_sample_alone_draws_each_label_of_the_newest_run_into_a_new_folder(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    os.utime(home / "runs/mnist/metrics.jsonl", (4e9, 4e9))  # makes it the newest
    for folder in ("samples/mnist-6", "samples/mnist-6-2"):
        code, out, _ = said(capsys, "sample --device cpu")
        names = [f"{index:03d}-{index}.png" for index in range(10)]
        assert code == 0
        assert out.splitlines() == [str(Path(folder) / name) for name in (*names, "grid.png")]


def test_an_image_depends_on_its_seed_alone_not_on_its_batch(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    common = "--model mnist --device cpu --quiet"
    assert said(capsys, f"sample --labels 5*3 --seed 1 --batch-size 2 --out batched {common}") == (0, "", "")
    assert said(capsys, f"sample --labels 5 --seed 3 --out alone {common}")[0] == 0
    batched, alone = (np.asarray(Image.open(home / name)) for name in ("batched/002-5.png", "alone/000-5.png"))
    np.testing.assert_array_equal(batched, alone)


def test_no_ema_draws_with_the_raw_weights(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert said(capsys, "sample --model mnist --labels 5 --no-ema --out raw --device cpu --quiet")[0] == 0
    with Image.open(home / "raw/000-5.png") as picture:
        assert dict(picture.info)["checkpoint"].endswith("model.safetensors")


def test_force_overwrites(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    line = "sample --model mnist --labels 5 --out again --device cpu --quiet"
    assert [said(capsys, line)[0], said(capsys, line)[0], said(capsys, f"{line} --force")[0]] == [0, 2, 0]


# --- the other three


def test_lr_find_writes_a_plot_and_numbers_and_says_the_rate(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ditkit.estimation.lr_finder import LRCurve

    asked = []

    def find_lr(config, *, device, steps, on_step, datasets, should_stop):
        asked.append(config)
        on_step(1, 2, 1e-6, 1.0)
        rates = [1e-5, 1e-4, 1e-3]
        losses = [2.0, 1.0, 3.0]
        return LRCurve(rates=rates, losses=losses, smoothed=losses, suggestion=1e-4, lowest=2e-4, configured=6e-3)

    monkeypatch.setattr("ditkit.estimation.lr_finder.find_lr", find_lr)
    code, out, err = said(capsys, "lr-find mnist --batch-size 4 --device cpu")
    assert (code, out) == (
        0,
        "the loss of this short test is lowest at a learning rate of 2.00e-04, and rises above it\n",
    )
    assert err.endswith(
        "to begin with: `--lr 1.00e-04`; the settings have 6.00e-03; which rate is best is known from whole runs only\n"
    )
    assert "plot in lr-find-mnist.png, numbers in lr-find-mnist.json" in err
    assert asked[0].train.batch_size == 4
    numbers = json.loads((home / "lr-find-mnist.json").read_text(encoding="utf-8"))
    assert (numbers["suggestion"], numbers["losses"]) == (1e-4, [2.0, 1.0, 3.0])
    code, out, err = said(capsys, "lr-find --runs-dir nowhere --json --out found.png --device cpu")
    assert asked[1].data.name == "mnist"
    assert (code, err) == (0, "")
    rates = {"suggestion": 1e-4, "lowest": 2e-4, "configured": 6e-3}
    assert json.loads(out) == {**rates, "plot": "found.png", "numbers": "found.json"}


def test_a_recipe_that_whole_runs_were_made_for_keeps_its_rate():
    from ditkit.estimation.lr_finder import LRCurve
    from ditkit.runs.rates import advice, recipe_of

    curve = LRCurve(rates=[1e-4], losses=[1.0], smoothed=[1.0], suggestion=1e-4, lowest=2e-4, configured=6e-3)
    same = recipes.load("mnist", {"optim": {"lr": 1e-4}, "data": {"workers": 2}, "seed": 5})
    assert (
        advice(curve.suggestion, curve.configured, same)
        == "the recipe mnist has 6.00e-03, found by whole runs: keep it"
    )
    assert recipe_of(recipes.load("celeba", {"data": {"path": "/faces"}})) == "celeba"
    for changed in (
        {"model": {"width": 64}},
        {"train": {"batch_size": 64}},
        {"train": {"steps": 100}},
        {"data": {"flip": True}},
    ):
        other = recipes.load("mnist", changed)
        assert recipe_of(other) is None and "--lr 1.00e-04" in advice(curve.suggestion, curve.configured, other)
    assert recipe_of(recipes.load("folder")) is None


def test_plot_loss_draws_one_run_or_several_or_in_the_terminal(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert said(capsys, "plot-loss mnist")[:2] == (0, str(Path("runs/mnist/loss.png")) + "\n")
    assert said(capsys, f"train mnist --name other --steps 2 --quiet {TINY}")[0] == 0
    assert said(capsys, "plot-loss mnist other --log --by-noise --out both.png")[:2] == (0, "both.png\n")
    with Image.open(home / "both.png") as picture:
        assert picture.width > 300
    code, out, err = said(capsys, "plot-loss mnist other --terminal")
    assert (code, err) == (0, "")
    assert "mnist" in out and "other" in out and len(out.splitlines()) > 5


@pytest.mark.parametrize(
    ("words", "path", "frames"),
    [
        ("mnist", "runs/mnist/progress.gif", 2),
        ("train --model mnist --out shared.gif", "shared.gif", 2),
        ("mnist --kind train --out kind.gif", "kind.gif", 2),
        ("denoise mnist --labels 3 1 4 --steps 3 --device cpu", "runs/mnist/denoise.gif", 6),
        ("denoise --model mnist --out every.gif --steps 1 --device cpu", "every.gif", 2),
    ],
)
def test_make_gif_shows_training_and_denoising(
    words: str, path: str, frames: int, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert said(capsys, f"make-gif {words}")[:2] == (0, str(Path(path)) + "\n")
    with Image.open(home / path) as picture:
        assert getattr(picture, "n_frames", 1) == frames
        assert picture.info["loop"] == 0
