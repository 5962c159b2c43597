"""A run that is not done says so where it is drawn with, and hides no model inside ditkit without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import said
from training_runs import run

from ditkit.errors import UsageError
from ditkit.runs.lookup import bundled_weights, find_weights


def test_an_unfinished_run_says_its_step_and_the_name_of_the_model_that_it_hides(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tiny(train={"steps": 100}), Path("runs/mnist"), stop_after=2)
    line = "sample --labels 3 --steps 1 --device cpu --out images --force --model"
    code, _, err = said(capsys, f"{line} mnist")
    assert code == 0
    assert (
        "the run mnist is at step 2 of 100: expect noise; the model of that name inside ditkit is ditkit:mnist" in err
    )
    code, _, err = said(capsys, f"{line} ditkit:mnist")
    assert (code, "expect noise" in err) == (0, False)
    run(tiny(train={"steps": 3}), Path("runs/done"))
    assert "is at step" not in said(capsys, f"{line} done")[2]


def test_a_model_inside_ditkit_has_a_name_that_no_run_can_have(tmp_path):
    assert find_weights("ditkit:mnist", tmp_path) == bundled_weights("mnist")
    with pytest.raises(UsageError, match="unknown model inside ditkit 'mnits'"):
        find_weights("ditkit:mnits", tmp_path)
    with pytest.raises(UsageError, match="has EMA weights only"):
        find_weights("ditkit:mnist", tmp_path, ema=False)
