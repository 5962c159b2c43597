"""What is said: a full disk names the file, whoever writes it; a terminal gets no control characters of a name."""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import SETTINGS, finish, fork, write_digits
from PIL import Image

from ditkit import recipes
from ditkit.checkpoint.loading import build_network
from ditkit.cli.app import main
from ditkit.interop.import_model import write_as_run
from ditkit.runs.folder import RunFolder
from ditkit.runs.metrics import append_evaluation, read_evaluations
from ditkit.runs.model_info import ModelInfo

pytestmark = pytest.mark.faults

ESCAPE = "\x1b]0;owned\x07"
TINY = " ".join(f"--set {key}={value}" for key, value in SETTINGS.items())


def write_model(folder: Path, labels: tuple[str, ...] = tuple("0123456789")) -> RunFolder:
    """A run with a random network, losses and a grid of samples."""
    settings = recipes.merge_settings([f"{key}={value}" for key, value in SETTINGS.items()])
    config = recipes.load("mnist", settings)
    run = RunFolder(folder)
    info = ModelInfo(config=config, labels=labels, step=7)
    metrics = [{"step": step, "loss": 1 / step} for step in range(1, 9)]
    files = {"ema.safetensors": build_network(config, len(labels)).state_dict()}
    write_as_run(run, info=info, files=files, metrics=metrics)
    run.samples.mkdir()
    Image.new("RGB", (56, 56)).save(run.samples / "step-0000007.png")
    return run


@pytest.mark.parametrize(
    ("line", "file"),
    [
        (f"train mnist --data-dir digits --name new --device cpu --quiet {TINY}", "runs/new"),
        (f"train mnist --data-dir digits --name new --lr auto --device cpu --quiet {TINY}", "runs/new"),
        (f"lr-find mnist --data-dir digits --steps 20 --device cpu {TINY}", "lr-find-mnist.png"),
        ("import model.safetensors --as other", "runs/other"),
        ("sample --model runs/a --labels 3 --steps 1", "samples/a-7/000-3.png"),
        ("sample --model runs/a --labels 3 --steps 1 --out drawn --npz all.npz --force", "drawn/000-3.png"),
        ("edit img2img 3.png --model runs/a --labels 8 --steps 1", "edits/3-a-7/000-8.png"),
        ("sweep runs/a --steps 1", "sweeps/a-7/sweep."),
        ("compare a b", "comparisons/a-vs-b/"),
        ("evaluate runs/a --samples 10 --steps 1 --data-dir digits", "cache/"),
        ("make-gif denoise --model runs/a --labels 3 --steps 1", "runs/a/denoise.gif"),
        ("make-gif train a --out train.gif", "train.gif"),
        ("plot-loss a", "runs/a/loss.png"),
        ("report a", "runs/a/report.html"),
        ("export a --out out.safetensors", "out.safetensors"),
        ("data show mnist --data-dir digits --out shown.png", "shown.png"),
    ],
    ids=lambda value: " ".join(value.split()[:2]) if " " in value else "",
)
def test_a_full_disk_is_one_error_that_names_the_file(
    line: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(tmp_path / "digits")
    write_model(tmp_path / "runs/a")
    write_model(tmp_path / "runs/b")
    Image.new("L", (28, 28)).save("3.png")
    os.link(RunFolder(tmp_path / "runs/a").checkpoint(7) / "ema.safetensors", "model.safetensors")
    sync = os.fsync

    def full(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code = main(shlex.split(line))
    err = capsys.readouterr().err
    errors = [text for text in err.splitlines() if text.startswith("error: ")]
    assert code == 6 and len(errors) == 1, err
    assert file in errors[0] and "no space left on device" in errors[0].lower() and ".tmp" not in errors[0], err
    assert not [path for path in tmp_path.rglob(".*") if path.suffix == ".tmp"]


@pytest.mark.parametrize(
    "line",
    [
        "list",
        "show RUN",
        "plot-loss RUN",
        "plot-loss RUN --terminal",
        "report RUN",
        "sample --model RUN --labels LABEL --steps 1",
        "sweep RUN --steps 1",
        "make-gif denoise --model RUN --labels LABEL --steps 1",
        "make-gif train RUN",
        "export RUN",
        "hub push RUN somebody/model --dry-run --data-licence mit",
        "import MODEL --as other",
        "sample --model RUN --labels nothing",
        "train RUN",
    ],
)
def test_a_terminal_gets_no_control_characters_of_names_and_labels(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_model(tmp_path / f"runs/a{ESCAPE}", (f"cat{ESCAPE}", "dog"))
    weights = run.checkpoint(7) / "ema.safetensors"
    names = {"RUN": str(run.path), "LABEL": f"cat{ESCAPE}", "MODEL": str(weights)}
    capsys.readouterr()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    main([names.get(word, word) for word in line.split()])
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert said.strip() and "\x1b]" not in said and "\x07" not in said, said
    assert "internal error" not in said, said


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_evaluations_of_several_processes_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"

    def append() -> int:
        for number in range(20):
            append_evaluation(path, {"metrics": {"kid": float(number)}, "of": os.getpid()})
        return 0

    children = [fork(append, tmp_path / f"log-{part}") for part in range(3)]
    assert [finish(child) for child in children] == [0, 0, 0]
    records: list[dict[str, Any]] = read_evaluations(path)
    kept = {of: [record["metrics"]["kid"] for record in records if record["of"] == of] for of in children}
    assert kept == {of: list(range(20)) for of in children}
    assert json.loads(path.read_bytes()) == records
