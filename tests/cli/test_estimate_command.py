"""`ditkit estimate`, `train --dry-run` and `--batch-size auto`: what they say, and that they leave nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import said

import ditkit
from ditkit.estimation import memory as estimation_memory
from ditkit.estimation import report as estimation_report
from ditkit.events import Stepped
from ditkit.io import paths
from ditkit.io.progress import no_progress
from ditkit.runs.folder import RunFolder
from ditkit.runtime import threads
from ditkit.training.step import SpeedOptions
from ditkit.visual.training_progress import TrainingProgress

TINY = (
    "--set model.patch=7 --set model.width=32 --set model.depth=2 --set model.heads=2 --set sample.steps=1 "
    "--set train.sample_columns=1 --set data.validation=10 --device cpu"
)


def test_estimate_prints_one_object_with_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, f"estimate mnist --steps 10 --batch-size 16 {TINY} --json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert (report["steps"], report["batch_size"], report["labels"], report["images"]) == (10, 16, 10, 60_000)
    assert report["flops_per_image"]["training"] == 3 * report["flops_per_image"]["forward"] > 0
    memory = report["memory"]
    assert memory["total"] == sum(value for key, value in memory.items() if key not in ("total", "available"))
    assert memory["weights"] == 4 * report["parameters"] == memory["optimiser"] // 2
    assert report["fits"] is True
    time = report["time"]
    rest = time["validation"] + time["drawing"] + time["saving"]
    assert time["total"] == pytest.approx(10 * time["step"] + rest)
    assert time["images_per_second"] == pytest.approx(16 / time["step"])
    assert 0 < time["utilisation"] < 1.2
    assert [path.name for path in tmp_path.iterdir()] in ([], ["cache"])


def test_estimate_in_words_ends_with_the_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"estimate mnist --batch-size 96 {TINY} --no-probe"
    code, out, _ = said(capsys, line)
    assert code == 0 and out.splitlines()[-1] == "fits"
    assert "weights" in out and "a checkpoint" in out and "a step" not in out
    whole = json.loads(said(capsys, f"{line} --json")[1])["memory"]["total"]
    monkeypatch.setattr(estimation_memory, "available_memory", lambda *_: whole - (1 << 18))
    assert said(capsys, line)[1].splitlines()[-1].startswith("does not fit: use batch 48 × 2 (--set train.accumulate=2")
    monkeypatch.setattr(estimation_memory, "available_memory", lambda *_: 10**6)
    assert "not even one image at a time" in said(capsys, line)[1].splitlines()[-1]


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose two cores others keep busy."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: [frozenset({0}), frozenset({1})])
    monkeypatch.setattr(threads, "busy_cores", lambda _cores: 1.6)
    monkeypatch.setattr(threads, "quota", lambda: None)
    monkeypatch.setattr(threads, "take_threads", lambda _threads: None)


def test_a_busy_machine_is_mentioned(capsys: pytest.CaptureFixture[str], busy: None) -> None:
    text = "computing with 1 thread: others keep 1.6 of 2 cores busy"
    for more in ("", "--json"):
        code, _, err = said(capsys, f"estimate mnist {TINY} --no-probe {more}")
        assert (code, err) == (0, f"{text}; training looks again at every checkpoint\n")
    assert said(capsys, f"estimate mnist {TINY} --no-probe --quiet")[2] == ""


def test_training_follows_the_load_of_a_busy_machine_only_with_auto(
    capsys: pytest.CaptureFixture[str], busy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def train(*_: object, speed: SpeedOptions, **__: object) -> None:
        asked.append(speed.follow_load)

    monkeypatch.setattr("ditkit.training.loop.train", train)
    _, _, err = said(capsys, f"train mnist --name a {TINY}")
    assert "others keep 1.6 of 2 cores busy (on a CPU looked at again at every checkpoint; --threads N decides)" in err
    said(capsys, f"train mnist --name b --threads 1 {TINY}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    said(capsys, f"train mnist --name c {TINY}")
    assert asked == [True, False, False]


@pytest.mark.parametrize("compiles", [True, False])
def test_times_without_compiling_are_said_to_be_that_where_training_compiles(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, compiles: bool
) -> None:
    monkeypatch.setattr("ditkit.runtime.compile.pays_back", lambda *_: compiles)
    out = said(capsys, f"estimate mnist --batch-size 8 {TINY}")[1]
    assert ("without compiling, which training does" in out) is compiles


def test_images_that_are_not_here_are_not_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, f"estimate celeba {TINY} --set model.patch=8 --no-probe --json")
    assert code == 0
    assert json.loads(out)["images"] is None
    assert "counted with 2 labels" in err


def test_a_full_disk_is_the_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(paths, "free_disk", lambda _place: 1000)
    assert said(capsys, f"estimate mnist {TINY} --no-probe")[1].splitlines()[-1].startswith("does not fit on the disk")


def test_a_dry_run_tells_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = said(capsys, f"train mnist --steps 5 --dry-run {TINY}")
    assert code == 0
    assert "[train]" in out and "in all" not in out
    assert err.splitlines()[-1] == "fits" and "images/s" in err and "to the end" in err
    assert not (tmp_path / "runs").exists()


def test_a_batch_is_split_when_memory_asks_for_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(estimation_memory, "available_memory", lambda *_: 10**12)
    monkeypatch.setattr(estimation_report, "_of", lambda _there: "")
    line = f"train mnist --steps 1 --set train.batch_size=24 --batch-size auto {TINY}"
    code, _, err = said(capsys, line)
    assert code == 0 and "\nbatch of 24: " in err
    assert RunFolder(tmp_path / "runs/mnist").read_config().train.accumulate == 1
    monkeypatch.setattr(estimation_memory, "fitting_parts", lambda *_: 3)
    code, _, err = said(capsys, f"{line} --fresh")
    config = RunFolder(tmp_path / "runs/mnist-2").read_config().train
    assert code == 0 and "batch of 24 in 3 parts: takes " in err
    assert (config.batch_size, config.accumulate) == (24, 3)


def test_a_batch_of_which_nothing_fits_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(estimation_memory, "available_memory", lambda *_: 10**6)
    code, _, err = said(capsys, f"train mnist --batch-size auto {TINY}")
    assert code == 2 and err.startswith("error: not even one image at a time fits into the 1.0 MB that are free")
    assert len(err.splitlines()) == 2 and not (tmp_path / "runs").exists()


def test_progress_tells_the_share_of_the_peak_where_it_is_known() -> None:
    progress = TrainingProgress("x", quiet=True)
    known = Stepped(step=1, loss=1.0, lr=1.0, images_per_second=20.0, utilisation=0.716)
    progress(known)
    assert "20 images/s (72% of peak)" in progress._numbers(known)
    assert "peak" not in progress._numbers(Stepped(step=2, loss=1.0, lr=1.0, images_per_second=20.0))


def test_a_step_that_takes_too_long_to_try_is_computed(monkeypatch):
    import torch

    from ditkit import recipes
    from ditkit.estimation.memory import RunSetup
    from ditkit.estimation.speed import measure
    from ditkit.runtime.peak_flops import Utilization

    monkeypatch.setattr("ditkit.estimation.speed._Engine", None)  # nothing is built
    setting = RunSetup(config=recipes.load("mnist"), labels=10, images=0, device=torch.device("cpu"))
    timing = measure(setting, 1, Utilization(image_flops=6e12, peak=1e11), seconds=5)
    assert not timing.tried and timing.step == pytest.approx(6e12 / (0.6 * 1e11) * 32)


def test_called_from_python_it_counts_the_data_itself_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    config = ditkit.load_recipe("mnist", {"model": {"width": 32, "depth": 2, "heads": 2, "patch": 7}})
    stages: list[str] = []
    report = ditkit.estimate(
        config, device="cpu", seconds=None, progress=lambda text: stages.append(text) or no_progress(text)
    )
    assert (report["labels"], report["images"], report["time"]) == (10, 60_000, None)
    assert report["memory"]["weights"] == 4 * report["parameters"] and "counting …" in stages
    assert capsys.readouterr() == ("", "") and estimation_report.report_lines(report)[-1] == "fits"
