"""Progress in a notebook: bars where ipywidgets can draw them, else lines, and the sample grids."""

from __future__ import annotations

import importlib.machinery
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from ditkit.events import Finished, Sampled, Started, Stepped
from ditkit.io import terminal
from ditkit.io.progress import progress
from ditkit.visual.training_progress import TrainingProgress

STARTED = {"device": "cpu", "dtype": "float32", "parameters": 4_200_000, "images": 60_000, "labels": ()}


@pytest.mark.parametrize(
    ("notebook", "is_terminal", "widgets", "draws"),
    [(False, True, False, True), (False, False, True, False), (True, True, False, False), (True, True, True, True)],
)
def test_bars_are_drawn_on_a_terminal_and_by_widgets(
    notebook: bool, is_terminal: bool, widgets: bool, draws: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.machinery.ModuleSpec("ipywidgets", None) if widgets else None
    monkeypatch.setattr(terminal, "find_spec", lambda name: spec)
    console = Console(file=io.StringIO(), force_jupyter=notebook, force_terminal=None if notebook else is_terminal)
    assert terminal.draws_bars(console) == draws


def test_a_notebook_without_widgets_shows_lines_and_sample_grids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    display = pytest.importorskip("IPython.display")
    shown: list[Any] = []
    monkeypatch.setattr(display, "display", lambda *things, **_: shown.extend(things))
    monkeypatch.setattr(terminal, "find_spec", lambda name: None)
    console = Console(file=io.StringIO(), force_jupyter=True, soft_wrap=True, highlight=False)
    monkeypatch.setattr("ditkit.visual.training_progress.stderr", lambda: console)
    Image.new("L", (8, 8)).save(tmp_path / "grid.png")
    with TrainingProgress() as shows:
        shows(Started(folder=tmp_path, step=0, steps=2, **STARTED))
        shows(Stepped(step=1, loss=1.0, lr=1e-3, images_per_second=1234.0))
        shows(Sampled(step=1, path=tmp_path / "grid.png"))
        shows(Finished(step=2, steps=2, seconds=1.0, reason="done", folder=tmp_path))
    texts = [thing.text for thing in shown if hasattr(thing, "text")]
    assert any(f"training {tmp_path.name}: 4.2M parameters" in text for text in texts)
    assert any("step 1/2" in text for text in texts)
    assert [type(thing).__name__ for thing in shown].count("Image") == 1


def test_what_is_fetched_for_a_run_is_shown_while_its_progress_is(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress("x"), progress("encoding 3 images into latents"):
        pass
    with TrainingProgress("x", quiet=True), progress("encoding 4 images into latents"):
        pass
    with progress("encoding 5 images into latents"):
        pass
    assert capsys.readouterr().err == "encoding 3 images into latents\n"
