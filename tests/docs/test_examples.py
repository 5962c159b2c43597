"""The examples run as they are."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

from ditkit import recipes

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments):
    return runpy.run_path(str(EXAMPLES / name))["main"](*arguments)


@pytest.mark.docs
def test_train_then_sample_from_python(capsys):
    assert run("train_from_python.py", 3) == Path("runs/from-python")
    assert "validation loss" in capsys.readouterr().out
    with Image.open(run("sample_from_python.py")) as picture:
        assert picture.width > 200


@pytest.mark.docs
def test_a_dataset_of_ones_own(tmp_path):
    assert run("train_on_my_dataset.py", 2) == Path("runs/my-stripes")
    assert (tmp_path / "runs" / "my-stripes" / "samples" / "step-0000002.png").is_file()


@pytest.mark.docs
def test_the_four_conditionings_are_compared_and_a_second_time_only_printed(capsys, monkeypatch):
    monkeypatch.setattr("ditkit.evaluation.reference.MOST_IMAGES", 200)
    tree = recipes.tree("mnist")
    tree["model"] |= {"patch": 14, "width": 32, "heads": 2, "depth": 1}
    tree["sample"] |= {"steps": 2}
    monkeypatch.setattr("ditkit.recipes.tree", lambda _: tree)
    words = ("--steps", "4", "--samples", "10", "--out", "four")
    picture = run("compare_conditionings.py", *words)
    first = capsys.readouterr().out
    assert first.count("| adaln-zero | 0.") == 1 and len(first.splitlines()) == 2 + 4 + 1 and picture.is_file()
    monkeypatch.setattr("ditkit.evaluate", lambda *_, **__: pytest.fail("it judges again"))
    run("compare_conditionings.py", *words)
    assert capsys.readouterr().out == first


def test_every_example_is_tested():
    text = Path(__file__).read_text(encoding="utf-8")
    tested = {path.name for path in EXAMPLES.glob("*.py") if path.name in text}
    assert tested | {"my_stripes.py"} == {path.name for path in EXAMPLES.glob("*.py")}
