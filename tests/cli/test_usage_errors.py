"""Mistakes of the user's: one line that says what is wrong, one that says what to do, before any work."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from command_line import refused, said, write_run

from ditkit.cli import console
from ditkit.errors import UsageError

WRONG = [
    ("trian mnist", "unknown command 'trian'", "did you mean 'train'"),
    ("train", "missing argument: what to train on", "ditkit train mnist"),
    ("train mnst", "unknown recipe, dataset, run or folder 'mnst'", "'mnist'"),
    ("train ./nowhere", "there is no folder ./nowhere", "check the path"),
    ("train ./" + "x" * 5000, "file name too long", "use a shorter word"),
    ("train mnist --stps 3", "unknown option '--stps'", "did you mean '--steps'"),
    ("train mnist --steps 0", "--steps: input should be greater than or equal to 1, not '0'", "another value"),
    ("train mnist --steps -1", "--steps: input should be greater than or equal to 1", "--steps"),
    ("train mnist --steps nan", "--steps: input should be a valid integer", "--steps"),
    ("train mnist --steps 1e12", "--steps: input should be a valid integer", "--steps"),
    ("train mnist --steps " + "7" * 30, "--steps: input should be less than or equal to 1000000000", "--steps"),
    ("train mnist --steps " + "7" * 5000, "--steps: ", "--steps"),
    ("train mnist --batch-size 0", "--batch-size: input should be greater than or equal to 1", "--batch-size"),
    ("train mnist --lr fast", "--lr: input should be a valid number", "--lr"),
    ("train mnist --lr nan", "--lr: input should be a finite number", "--lr"),
    ("train mnist --lr 1e-400", "--lr: input should be greater than 0", "--lr"),
    ("train mnist --seed -1", "--seed: input should be greater than or equal to 0", "--seed"),
    ("train mnist --max-time soon", "--max-time: 'soon' is not a duration", "10m"),
    ("train mnist --name a/b", "--name: 'a/b' is a path", "--runs-dir"),
    ("train mnist --name ..", "--name: '..' cannot name a folder", "letters"),
    ("train mnist --device gpu", "unknown device 'gpu'", "cpu"),
    ("train mnist --dtype half", "unknown dtype 'half'", "float32"),
    ("train mnist --threads none", "--threads: 'none' is neither auto nor a number", "leave it out"),
    ("train mnist --threads 0", "--threads: '0' is neither", "leave it out"),
    ("train mnist --compile yes", "unknown word for --compile: 'yes'", "auto"),
    ("train mnist --kernels yes", "unknown word for --kernels: 'yes'", "auto"),
    ("train mnist --grad-checkpointing of", "unknown word for --grad-checkpointing: 'of'", "off"),
    ("train mnist --label-by foo", "the digits of mnist have their own labels", "leave out --label-by"),
    ("train mnist --data-dir nowhere", "--data-dir: nowhere is not a folder", "check the path"),
    ("train mnist --config nowhere.toml", "cannot read nowhere.toml", "check the path"),
    ("train mnist --set optim.lrr=1", "unknown setting 'optim.lrr'", "optim.lr"),
    ("train mnist --set steps", "--set 'steps' is not of the form section.key=value", "--set optim.lr=3e-4"),
    ("train mnist --set data.image_size=27", "image size 27x27 is not divisible by the patch size 7", "model.patch"),
    ("train mnist --set sample.sampler=ddim", "sampler 'ddim' needs a diffusion process", "sample.sampler=flow-heun"),
    ("train mnist --set model.preset=huge", "unknown model preset 'huge'", "known:"),
    ("train mnist --lr", "--lr requires an argument", "ditkit train --help"),
    ("train mnist --name --fresh", "--name requires an argument", "--fresh is not one"),
    ("sample --labels --out x", "--labels requires an argument", "--out is not one"),
    ("sample --out --", "--out requires an argument", "-- is not one"),
    ("train --data-dir= mnist", "--data-dir: an empty word means nothing", "fill it in"),
    ("train mnist extra", "unexpected: extra", "ditkit train --help"),
    ("estimate", "missing argument: what to estimate", "ditkit estimate mnist"),
    ("estimate mnst", "unknown recipe, dataset, run or folder 'mnst'", "'mnist'"),
    ("estimate ./nowhere", "there is no folder ./nowhere", "check the path"),
    ("estimate mnist --batch-size auto", "--batch-size: input should be a valid integer", "--batch-size"),
    ("estimate mnist --steps 0", "--steps: input should be greater than or equal to 1", "--steps"),
    ("estimate mnist --device gpu", "unknown device 'gpu'", "cpu"),
    ("estimate mnist --dtype half", "unknown dtype 'half'", "float32"),
    ("estimate mnist --set optim.lrr=1", "unknown setting 'optim.lrr'", "optim.lr"),
    ("sample cat", "unexpected: cat", "labels follow --labels"),
    ("sample --labels", "--labels requires an argument", "ditkit sample --help"),
    ("sample --kernels of", "unknown word for --kernels: 'of'", "off"),
    ("sample --dtype half", "unknown dtype 'half'", "float32"),
    ("sample --labels cat --backend jax --kernels on", "the JAX backend computes in float32", "--backend torch"),
    ("sample --labels cow", "unknown label 'cow'", "known: cat, dog"),
    ("sample --labels cta", "unknown label 'cta'", "did you mean 'cat'?"),
    ("sample --labels cat*1000000000", "more than 100,000 images", "several runs"),
    ("sample --steps 0", "--steps: input should be greater than or equal to 1", "--steps"),
    ("sample --steps 99999", "--steps: input should be less than or equal to 10000", "--steps"),
    ("sample --guidance inf", "--guidance: input should be a finite number", "--guidance"),
    ("sample --guidance-interval 0.9 0.1", "guidance_from is above", "swap them"),
    ("sample --guidance-interval 0 nan", "finite number", "change"),
    ("sample --seed -1", "--seed: input should be greater than or equal to 0", "--seed"),
    ("sample --batch-size 0", "--batch-size: input should be greater than or equal to 1", "--batch-size"),
    ("sample --sampler flow-hein", "unknown sampler 'flow-hein'", "'flow-heun'"),
    ("sample --sampler ddim", "sampler 'ddim' needs a diffusion process, this model is a flow", "--sampler flow-heun"),
    ("sample --backend tf", "unknown backend 'tf'", "torch"),
    ("sample --backend jax --reuse 2", "the JAX backend goes through all blocks", "--backend torch"),
    ("sample --device gpu", "unknown device 'gpu'", "cpu"),
    ("sample --model pest", "unknown run 'pest'", "did you mean 'pets'"),
    ("sample --model notes.txt", "notes.txt is not a .safetensors file", "weights file"),
    ("sample --out x.png", "x.png would be a folder, and is called like a file", "e.g. --out x"),
    ("sample --out notes.txt", "notes.txt is a file", "name a folder"),
    ("lr-find mnst", "unknown recipe, dataset, run or folder 'mnst'", "'mnist'"),
    ("lr-find mnist --out x.gif", "x.gif is not the name of a PNG", "--out"),
    ("plot-loss pest", "unknown run 'pest'", "'pets'"),
    ("plot-loss --smooth 1", "--smooth: 1.0 is not from 0 to below 1", "0.9"),
    ("plot-loss --smooth nan", "--smooth: nan is not", "0.9"),
    ("plot-loss --smooth much", "--smooth: ", "ditkit plot-loss --help"),
    ("plot-loss --terminal --out x.png", "--terminal writes no file", "leave out one"),
    ("plot-loss --out loss", "loss is not the name of a picture", "loss.png"),
    ("make-gif denois", "unknown run 'denois'", "'denoise'"),
    ("make-gif --kind both", "unknown kind 'both'", "denoise"),
    ("make-gif train --labels cat", "--labels is for drawing", "make-gif denoise"),
    ("make-gif denoise --labels cow", "unknown label 'cow'", "known: cat, dog"),
    ("make-gif denoise --labels cat*101", "too many for a GIF", "fewer"),
    ("make-gif a b", "a and b are two runs", "denoise"),
    ("make-gif --out x.png", "x.png is not the name of a GIF", ".gif"),
    ("data shwo", "unknown command 'shwo'", "did you mean 'show'?"),
    ("data show", "missing argument: what to show", "ditkit data show mnist"),
    ("data show mnst", "unknown recipe, dataset, run or folder 'mnst'", "'mnist'"),
    ("data show mnist --limit 0", "--limit: ", "ditkit data show --help"),
    ("data show mnist --limt 3", "unknown option '--limt'", "did you mean '--limit'"),
    ("data show mnist --out x.jpg", "x.jpg is not the name of a PNG", "--out"),
    ("data show mnist --image-size= ", "--image-size: an empty word means nothing", "fill it in"),
    ("data show mnist extra", "unexpected: extra", "ditkit data show --help"),
    ("data list extra", "unexpected: extra", "ditkit data list --help"),
    ("data remove", "missing argument: what to remove", "--all"),
    ("data remove x --all", "names, --all and --unfinished exclude each other", "give names"),
    ("data remove mnist", "mnist is inside ditkit", "pip uninstall"),
    ("data remove celeba", "nothing of 'celeba' is in the cache", "ditkit data list"),
    ("data remove nothing", "unknown entry of the cache 'nothing'", "no entry of the cache to choose from"),
    ("data --nope", "unknown option '--nope'", "--help"),
    ("import", "missing argument: what to import", "ditkit import"),
    ("import nothing.pt", "there is no file or folder nothing.pt", "user/name"),
    ("import notes.txt", "notes.txt is not a file of weights", ".safetensors"),
    ("import runs/pets", "runs/pets is a run of ditkit already", "ditkit sample --model runs/pets"),
    ("import notes.txt --as a/b", "--as: 'a/b' is a path", "--runs-dir"),
    ("import a/b --as pets", "runs/pets is there already, and was not imported", "--as"),
    ("import a/b --as pets --force", "runs/pets is there already, and was not imported", "--as"),
    ("train mnist --init-from pest", "unknown run 'pest'", "did you mean 'pets'"),
    ("train mnist --init-from pets --set model.depth=2", "--init-from: pets has model.depth", "architecture"),
    ("show pest", "unknown recipe or run 'pest'", "'pets'"),
    ("list samplrs", "unknown family 'samplrs'", "'samplers'"),
    ("--nope", "unknown option '--nope'", "--help"),
]


@pytest.mark.parametrize(("line", "message", "hint"), WRONG, ids=[line[:60] for line, *_ in WRONG])
def test_a_mistake_is_two_plain_lines_and_exit_code_2(
    line: str, message: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs")
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = said(capsys, line)
    lines = err.splitlines()
    assert (code, out) == (2, "")
    assert len(lines) == 2, err
    assert lines[0].startswith("error: ") and message in lines[0]
    assert lines[1].startswith("hint: ") and hint in lines[1]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "code", "message", "hint"),
    [
        ("sample", 2, "there is no run in runs", "ditkit train mnist"),
        ("plot-loss", 2, "there is no run in runs", "ditkit train mnist"),
        ("make-gif", 2, "there is no run in runs", "ditkit train mnist"),
        ("show", 2, "there is no run in runs", "ditkit train mnist"),
        ("train folder", 3, "needs a folder of images", "--data-dir"),
        ("train celeba", 6, "cannot reach http://127.0.0.1:9", "--data-dir"),
        ("sample --model damaged.safetensors", 4, "is not a weights file of ditkit", "another checkpoint"),
        ("sample --model bare", 4, "bare has no checkpoint yet", "when training stops"),
        ("make-gif bare", 3, "bare has no sample grids yet", "train it longer"),
        ("plot-loss bare", 3, "bare has no losses yet", "train it first"),
        ("make-gif train bare-grid", 3, "step-0000001.png is damaged", "delete it"),
    ],
)
def test_what_is_missing_is_reported_with_the_exit_code_of_its_kind(
    line: str, code: int, message: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 20)
    if "bare" in line:
        (tmp_path / "runs/bare").mkdir(parents=True)
        (tmp_path / "runs/bare/config.toml").write_text("", encoding="utf-8")
    if "bare-grid" in line:
        (tmp_path / "runs/bare").rename(tmp_path / "runs/bare-grid")
        (tmp_path / "runs/bare-grid/samples").mkdir()
        (tmp_path / "runs/bare-grid/samples/step-0000001.png").write_bytes(b"x")
    refused(capsys, line, code, message, hint)


def test_images_that_are_there_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/001-dog.png").write_bytes(b"mine")
    code, _, err = said(capsys, "sample --labels cat dog --out out")
    assert code == 2
    assert "error: out/001-dog.png is there already\nhint: overwrite with --force" in err
    assert (tmp_path / "out/001-dog.png").read_bytes() == b"mine"


def test_diffusion_takes_no_more_steps_than_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", recipe="paper")
    code, _, err = said(capsys, "sample --steps 1001")
    assert code == 2
    assert "1001 sampling steps are more than the 1000 timesteps" in err


def test_a_bug_is_one_line_and_a_file_with_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr("ditkit.cli.complete.recipes", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, _, err = said(capsys, "list recipes")
    (report,) = tmp_path.glob("ditkit-error-*.txt")
    assert code == 1
    assert err.splitlines() == [
        "error: internal error: ZeroDivisionError: oh no",
        f"hint: this is a bug of ditkit; the traceback is in {report}",
    ]
    assert "Traceback" in report.read_text(encoding="utf-8") and "broken" in report.read_text(encoding="utf-8")
    assert "Traceback" in said(capsys, "list recipes --debug")[2]
    monkeypatch.setenv("DITKIT_DEBUG", "1")
    assert "Traceback" in said(capsys, "list recipes")[2]


def test_ctrl_c_exits_with_130_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ditkit.cli.complete.recipes", interrupted)
    code, _, err = said(capsys, "list recipes")
    assert code == 130
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(2, "No such file", "x.png"), "error: x.png: no such file\n"),
        (MemoryError(), "error: out of memory\nhint: lower --batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "error: out of memory\nhint: lower"),
    ],
)
def test_the_systems_own_errors_are_reported_plainly(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert console.report(error) == 6
    assert capsys.readouterr().err.startswith(message)


def test_a_long_error_stays_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.report(UsageError("word " * 100 + "[red]markup[/red]", "a\nb"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("[red]markup[/red]")
    assert lines[1:] == ["hint: a b"]


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = [sys.executable, "-m", "ditkit", "list"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
