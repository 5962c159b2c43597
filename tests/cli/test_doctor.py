"""`ditkit doctor` finds what is broken, and a broken part is told as such elsewhere, too."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from ditkit.cli import app, console
from ditkit.runtime import installation


def test_a_healthy_machine_is_reported_and_exits_with_0(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert app.main(["doctor", "--runs-dir", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    for part, _, needed in installation.PARTS:
        assert f"{part} {metadata.version(part)}\n" in out if needed else part in out
    assert "trains on " in out and "GB free" in out and "broken" not in out
    assert not (tmp_path / "runs").exists()


def test_a_part_that_cannot_be_imported_is_named_and_exits_with_6(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spoilt.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        installation, "PARTS", (("numpy", "numpy", True), ("pillow", "spoilt", False), ("nothing", "n", True))
    )
    assert app.main(["doctor"]) == 6
    out = capsys.readouterr().out
    assert "cannot be imported (operator torchvision::nms does not exist); ditkit does not need it" in out
    assert "nothing: missing\n" in out and "broken: pillow, nothing;" in out


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("operator torchvision::nms does not exist"), "hint: `pip uninstall torchvision`"),
        (ModuleNotFoundError("No module named 'rich.x'", name="rich.x"), "hint: `ditkit doctor`"),
    ],
)
def test_an_import_that_fails_is_no_bug_of_ditkit(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert console.report(error) == 6
    assert said in capsys.readouterr().err
