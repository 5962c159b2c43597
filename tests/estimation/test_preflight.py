"""What work needs at its end is tried before its beginning: packages, pictures, plots, room on the disk."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from training_runs import run

from ditkit import recipes
from ditkit.cli import app
from ditkit.errors import MachineError, UsageError
from ditkit.estimation import lr_finder, preflight
from ditkit.evaluation import report
from ditkit.events import Warned
from ditkit.interop import export
from ditkit.io import packages, paths
from ditkit.runs.model_info import ModelInfo
from ditkit.sampling import generate
from ditkit.training import step
from ditkit.visual import grid


class Worked(Exception):
    """The long work has begun."""


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps and drawings end at once."""

    def work(*_: object, **__: object) -> None:
        raise Worked

    monkeypatch.setattr(generate._Sampler, "draw", work)
    monkeypatch.setattr(step, "compute_gradients", work)
    monkeypatch.setattr(lr_finder, "compute_gradients", work)
    monkeypatch.setattr("ditkit.training.loop.compute_gradients", work)


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Pillow that was built without FreeType."""

    def fail(*_: object, **__: object) -> None:
        raise ImportError("The _imagingft C module is not installed")

    monkeypatch.setattr(grid, "font", fail)


NEED_FONTS = [
    "train mnist --set model.width=32 --set model.heads=2 --set data.validation=10 --threads 1",
    "sample --model mnist --labels 3",
    "sweep mnist --steps 1,2",
    "evaluate mnist --samples 10 --neighbours 1",
]


@pytest.mark.usefixtures("no_work", "no_fonts")
@pytest.mark.parametrize("line", NEED_FONTS)
def test_pictures_that_cannot_be_drawn_are_found_before_the_work(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ditkit.evaluation.reference.MOST_IMAGES", 20)
    code, err = app.main([*line.split(), "--device", "cpu"]), capsys.readouterr().err
    error = "error: cannot import what this needs: The _imagingft C module is not installed\n"
    assert (code, error in err) == (MachineError.exit_code, True), err


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("line", ["lr-find mnist", "train mnist --lr auto"])
def test_plots_that_cannot_be_made_are_found_before_the_range_test(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, err = app.main([*line.split(), "--device", "cpu"]), capsys.readouterr().err
    assert (code, "error: cannot import matplotlib.figure" in err) == (MachineError.exit_code, True), err


def test_a_sampler_and_a_package_are_found_before_latents_are_made(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("ditkit.training.setup.open_training_data", lambda *_, **__: pytest.fail("latents were made"))
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package torch-fidelity"):
        run(tiny(data={"channels": 3}, train={"evaluate_every": 5}), tmp_path / "run")
    monkeypatch.setitem(sys.modules, "diffusers.schedulers.scheduling_flow_match_heun_discrete", None)
    with pytest.raises(ImportError, match="scheduling_flow_match_heun_discrete"):
        run(tiny(sample={"sampler": "flow-heun"}), tmp_path / "other")


def test_a_whole_run_that_will_not_fit_on_the_disk_is_said_once(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(paths, "free_disk", lambda path: 3_000_000)
    config = tiny(train={"keep_every": 1, "steps": 60})
    texts = [event.text for event in run(config, tmp_path / "run", stop_after=1).of(Warned)]
    assert [text for text in texts if "where 3.0 MB are free" in text and "`ditkit estimate`" in text], texts
    assert not run(config, tmp_path / "run", stop_after=2).of(Warned)
    assert preflight.disk_remark(tiny(train={"steps": 1}), 10, 100, tmp_path) is None


@pytest.mark.parametrize(
    ("name", "dtype", "width", "words"),
    [
        ("none", "float32", 32, "needs the packages onnx and onnxscript and onnxruntime"),
        ("onnx", "bfloat16", 32, "hardly anything runs ONNX in bfloat16"),
        ("onnx", "float32", 8192, "an ONNX file holds 2 GB at most"),
    ],
)
def test_what_onnx_cannot_hold_is_said_before_torch_loads(name, dtype, width, words, monkeypatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None if name == "none" else importlib.machinery)
    config = recipes.load("mnist", {"model": {"width": width}})
    info = ModelInfo(config=config, labels=("a",), step=1)
    with pytest.raises(UsageError, match=words):
        export._check(info, "onnx", dtype, Path("a.onnx"), approximate=False, force=False)


def test_features_of_a_file_ask_for_what_runs_it_at_once(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.onnx").touch()
    monkeypatch.setattr(packages, "find_spec", lambda name: True)
    report.check_features(str(tmp_path / "a.onnx"), 3)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package onnxruntime"):
        report.check_features(str(tmp_path / "a.onnx"), 3)


def test_a_package_taken_out_by_hand_is_missing(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert not packages.is_installed("wandb") and not packages.is_installed("a_package.of_nobody")
    assert packages.is_installed("numpy")
