"""The examples run as they are."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DITKIT_RUNS", raising=False)
    return tmp_path


def run(name: str, *arguments):
    return runpy.run_path(str(EXAMPLES / name))["main"](*arguments)


def test_train_then_sample_from_python(here, capsys):
    assert run("train_from_python.py", 3) == Path("runs/from-python")
    assert "validation loss" in capsys.readouterr().out
    with Image.open(run("sample_from_python.py")) as picture:
        assert picture.width > 200


def test_a_dataset_of_ones_own(here):
    assert run("train_on_my_dataset.py", 2) == Path("runs/my-stripes")
    assert (here / "runs" / "my-stripes" / "samples" / "step-0000002.png").is_file()


def test_every_example_is_tested():
    text = Path(__file__).read_text(encoding="utf-8")
    tested = {path.name for path in EXAMPLES.glob("*.py") if path.name in text}
    assert tested | {"my_stripes.py"} == {path.name for path in EXAMPLES.glob("*.py")}
