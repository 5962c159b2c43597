"""Trackers: they hear everything once, go on with a run, and cost it nothing when they fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

import ditkit
from ditkit.cli.app import main
from ditkit.recipes import build, tree
from ditkit.registry import TRACKERS
from ditkit.trackers.contract import Tracking

FAKE = '''"""Writes down what it hears."""
import json, os

class Fake:
    def __init__(self, folder, step):
        self.file = open(folder / "heard.jsonl", "a")
        self.write("begin", step)
    def write(self, *what):
        self.file.write(json.dumps(what) + chr(10)); self.file.flush()
    def log(self, step, metrics):
        if step == int(os.environ.get("FAKE_FAILS", 0)):
            raise ConnectionError("the service is down")
        self.write("log", step, sorted(metrics))
    def image(self, step, path):
        self.write("image", step, path.name)
    def close(self):
        self.write("end"); self.file.close()

def tracker(folder, step, config):
    assert config["model"]["width"] == 16
    return Fake(folder, step)
'''


@pytest.fixture
def fake(tmp_path, monkeypatch):
    path = tmp_path / "fake.py"
    path.write_text(FAKE, encoding="utf-8")
    monkeypatch.setitem(TRACKERS._added, "fake", path)
    return "fake"


def config(steps: int):
    train = {"steps": steps, "batch_size": 4, "sample_every": 2, "validate_every": 2, "sample_columns": 1}
    tiny = {"width": 16, "depth": 1, "heads": 2, "patch": 14}
    return build(tree("mnist"), {"model": tiny, "train": train, "data": {"validation": 4}, "sample": {"steps": 1}})


def heard(folder):
    return [json.loads(line) for line in (folder / "heard.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_tracker_hears_a_run_and_its_continuation(tmp_path, fake):
    told: list[str] = []
    for steps in (2, 4):
        ditkit.train(config(steps), tmp_path / "run", Tracking([fake, fake], config(steps), told.append), device="cpu")
    found = heard(tmp_path / "run")
    assert [one for one in found if one[0] in ("begin", "end")] == [["begin", 0], ["end"], ["begin", 2], ["end"]]
    assert [one[1] for one in found if one[0] == "log" and "loss" in one[2]] == [1, 2, 3, 4]
    assert [one[1] for one in found if one[0] == "log" and one[2] == ["validation_loss"]] == [2, 4]
    assert [one[1:] for one in found if one[0] == "image"] == [
        [2, "step-0000002.png"],
        [4, "step-0000004.png"],
    ]
    assert not told


def test_one_that_fails_is_reported_once_and_the_run_ends_as_without_it(tmp_path, fake, monkeypatch):
    monkeypatch.setenv("FAKE_FAILS", "2")
    told: list[str] = []
    ditkit.train(config(4), tmp_path / "run", Tracking([fake], config(4), told.append), device="cpu")
    ditkit.train(config(4), tmp_path / "plain", device="cpu")
    assert told == ["warning: fake takes no more data: ConnectionError: the service is down"]
    weights = [tmp_path / name / "checkpoints/step-0000004/model.safetensors" for name in ("run", "plain")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_an_unknown_one_and_a_missing_package_are_found_at_once(tmp_path, monkeypatch, capsys):
    assert main(["train", "mnist", "--track", "tensorbord"]) == 2
    assert "did you mean 'tensorboard'" in capsys.readouterr().err
    monkeypatch.setattr("ditkit.io.packages.find_spec", lambda name: None)
    assert main(["train", "mnist", "--track", "wandb"]) == 2
    assert 'pip install "ditkit[wandb]"' in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.extras
def test_tensorboard_has_the_figures_and_the_samples(tmp_path):
    if find_spec("tensorboard") is None:
        pytest.skip('needs tensorboard: pip install "ditkit[tensorboard]"')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    ditkit.train(config(2), tmp_path / "run", Tracking(["tensorboard"], config(2), pytest.fail), device="cpu")
    ditkit.train(config(4), tmp_path / "run", Tracking(["tensorboard"], config(4), pytest.fail), device="cpu")
    there = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    there.Reload()
    assert [one.step for one in there.Scalars("loss")] == [1, 2, 3, 4]
    assert [one.step for one in there.Images("samples")] == [2, 4]
    rows = [row for row in ditkit_rows(tmp_path / "run") if "loss" in row]
    assert [one.value for one in there.Scalars("loss")] == pytest.approx([row["loss"] for row in rows], rel=1e-5)


def ditkit_rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.extras
def test_wandb_keeps_one_run_offline(tmp_path):
    if find_spec("wandb") is None:
        pytest.skip('needs wandb: pip install "ditkit[wandb]"')
    line = [sys.executable, "-m", "ditkit", "train", "mnist", "--quiet", "--name", "run", "--device", "cpu"]
    for key, value in {"model.width": 16, "model.depth": 1, "model.heads": 2, "train.batch_size": 4}.items():
        line += ["--set", f"{key}={value}"]
    environment = {**os.environ, "WANDB_MODE": "offline"}
    for steps in ("2", "4"):
        words = [*line, "--steps", steps, "--track", "wandb"]
        done = subprocess.run(words, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
        assert "warning: wandb" not in done.stderr
    name = (tmp_path / "runs/run/wandb-id.txt").read_text(encoding="utf-8")
    kept = list((tmp_path / "runs/run/wandb").glob(f"offline-run-*-{name}"))
    assert len(kept) == 2 and all(list(one.glob("*.wandb")) for one in kept)
