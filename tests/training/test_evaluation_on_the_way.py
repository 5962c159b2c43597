"""Runs that are judged while they train."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import ditkit
from ditkit import recipes
from ditkit.cli.app import main
from ditkit.evaluation.evaluate import evaluate
from ditkit.evaluation.judge import open_judge
from ditkit.evaluation.reference import Reference
from ditkit.events import Evaluated, Event, Warned
from ditkit.io import packages

TINY = {"width": 48, "depth": 2, "heads": 2, "patch": 4}


def judged_config(**train):
    settings = {"steps": 40, "batch_size": 16, "save_every": 20, "sample_every": 10_000, "validate_every": 20}
    settings |= {"evaluate_every": 20, "evaluate_samples": 24, **train}
    tree = {"model": TINY, "train": settings, "data": {"validation": 10}, "sample": {"steps": 4}}
    return recipes.build(recipes.tree("mnist"), tree)


@pytest.fixture
def few_real(monkeypatch):
    """Judges know the first 600 digits, so that a test need not look at all of them."""
    import ditkit.evaluation.reference as reference

    monkeypatch.setattr(reference, "MOST_IMAGES", 600)


def test_a_run_is_judged_as_its_checkpoints_would_be(few_real, tmp_path):
    config, heard = judged_config(keep=5), []
    run = ditkit.train(config, tmp_path / "runs/run", heard.append)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    judged = {row["step"]: row for row in rows if "kid" in row}
    assert list(judged) == [20, 40] and judged[20]["kid"] != judged[40]["kid"]
    assert [event.step for event in heard if isinstance(event, Evaluated)] == [20, 40]
    judge = open_judge(config)
    assert isinstance(judge.reference, Reference) and judge.reference.statistics.images == 600
    trained = ditkit.load(run / "checkpoints/step-0000040")
    later = evaluate(trained, judge, samples=24, seed=config.seed).metrics
    assert judged[40]["kid"] == pytest.approx(later["kid"], rel=1e-4)
    assert judged[40]["kid_error"] == pytest.approx(later["kid_error"], rel=1e-4)


def test_the_labels_of_the_kid_are_said_and_another_way_does_not_go_unsaid(few_real, tmp_path):
    heard: list[Event] = []

    def texts(kind):
        return [event.of if isinstance(event, Evaluated) else event.text for event in heard if isinstance(event, kind)]

    ditkit.train(judged_config(steps=20, evaluate_labels="even"), tmp_path / "runs/run", heard.append)
    assert texts(Evaluated) == ["24 images, labels in turn, as --labels-as even asks"] and not texts(Warned)
    run = ditkit.train(judged_config(steps=60), tmp_path / "runs/run", heard.append)
    assert "24 images, labels as often as the real images have them: " in texts(Evaluated)[1]
    assert (
        len(texts(Warned)) == 1 and "until step 20 the labels of the KID were drawn in another way" in texts(Warned)[0]
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row.get("kid_labels_as_data") for row in rows if "kid" in row] == [None, True, True]


@pytest.mark.slow
def test_judging_changes_nothing_of_a_run_and_is_continued_with_it(few_real, tmp_path):
    whole = ditkit.train(judged_config(), tmp_path / "runs/whole")
    ditkit.train(judged_config(steps=25), tmp_path / "runs/parts")
    parts = ditkit.train(judged_config(), tmp_path / "runs/parts")
    plain = ditkit.train(judged_config(evaluate_every=None), tmp_path / "runs/plain")

    def rows(run):
        return (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()

    assert rows(whole) == rows(parts)
    tensors = [load_file(run / "checkpoints/step-0000040/model.safetensors") for run in (whole, parts, plain)]
    for name, value in tensors[0].items():
        assert torch.equal(value, tensors[1][name]) and torch.equal(value, tensors[2][name])
    assert [row for row in rows(whole) if '"kid"' not in row] == rows(plain)


def test_a_missing_package_is_reported_before_the_first_step(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert main(["train", "mnist", "--evaluate-every", "10", "--set", "data.channels=3"]) == 2
    hint = 'hint: `pip install "ditkit[evaluate]"`, or train without --evaluate-every'
    assert hint in capsys.readouterr().err and not (tmp_path / "runs").exists()
