"""The command line: words, errors, help, flags, completion. What trains and draws is in test_cli_train.py."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from ditkit import recipes
from ditkit.card import KEY, Card
from ditkit.cli import app, console, words
from ditkit.cli.progress import TrainingProgress, next_steps
from ditkit.errors import UsageError
from ditkit.events import Finished, Started, Stepped, Validated

FLAGS = {
    "train": "--steps --max-time --batch-size --lr --seed --data-dir --config --set --name --runs-dir --fresh "
    "--dry-run --quiet --device --dtype --debug",
    "sample": "--labels --steps --guidance --guidance-interval --sampler --seed --model --no-ema --out --force --json "
    "--runs-dir --device --batch-size --quiet --debug",
    "lr-find": "--config --set --data-dir --batch-size --seed --device --out --runs-dir --json --quiet --debug",
    "plot-loss": "--log --by-noise --smooth --terminal --out --runs-dir --quiet --debug",
    "make-gif": "--kind --model --no-ema --labels --steps --guidance --sampler --seed --out --runs-dir --device "
    "--quiet --debug",
    "show": "--runs-dir --debug",
    "list": "--debug",
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DITKIT_RUNS", "DITKIT_DEBUG", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def write_weights(path: Path, *, labels: tuple[str, ...] = ("cat", "dog"), recipe: str = "mnist") -> Path:
    """A weights file without tensors: the card is all that the command line reads before torch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    card = Card(config=recipes.load(recipe), labels=labels, step=100)
    header = json.dumps({"__metadata__": {KEY: card.to_json()}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def write_run(runs: Path, name: str = "pets", recipe: str = "mnist") -> Path:
    """A run folder with one checkpoint, as far as anything can tell without torch."""
    folder = runs / name
    write_weights(folder / "checkpoints/step-0000100/ema.safetensors", recipe=recipe)
    (folder / "checkpoints/step-0000100/manifest.json").write_text("{}", encoding="utf-8")
    (folder / "config.toml").write_text(recipes.dump(recipes.load(recipe)), encoding="utf-8")
    rows = [json.dumps({"step": step, "loss": 1.0 / step}) for step in range(1, 9)]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def said(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command line."""
    code = app.main(line.split())
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- flags, help, version, completion


def test_the_flags_of_every_command_are_frozen() -> None:
    found = {
        name: [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        for name, command in app.command().commands.items()
    }
    assert {name: sorted(options) for name, options in found.items()} == {
        name: sorted(line.split()) for name, line in FLAGS.items()
    }


def test_commands_come_in_the_order_of_work() -> None:
    assert list(app.command().commands) == ["train", "sample", "lr-find", "plot-loss", "make-gif", "show", "list"]


def test_sample_takes_no_positional_argument() -> None:
    assert not [one for one in app.command().commands["sample"].params if one.param_type_name == "argument"]


@pytest.mark.parametrize("command", FLAGS)
def test_help_shows_every_flag_its_panels_and_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, f"{command} --help")
    assert (code, err) == (0, "")
    assert all(flag in out for flag in FLAGS[command].split())
    assert f"Examples:\n \n ditkit {command}" in "\n".join(line.rstrip() or " " for line in out.splitlines())
    assert "<bool>" not in out


def test_help_names_panels_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "train --help")[1] + said(capsys, "sample --help")[1]
    for panel in ("Model, diffusion and all other settings", "Optimiser", "Data", "Output", "Machine", "Diffusion"):
        assert f"─ {panel} ─" in out
    assert "[default: auto]" in out
    assert "[default: (the recipe's)]" in out
    assert "[default: (the newest run)]" in out


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "")
    assert code == 0
    assert "plot-loss" in out


def test_version_is_one_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    from ditkit import __version__

    assert said(capsys, "--version") == (0, f"ditkit {__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ditkit tr", ["train"]),
        ("ditkit train mn", ["mnist"]),
        ("ditkit train pe", ["pets"]),
        ("ditkit list s", ["samplers"]),
        ("ditkit sample --sampler flow-h", ["flow-heun"]),
        ("ditkit sample --model p", ["pets"]),
        ("ditkit plot-loss pets p", ["pets"]),
        ("ditkit make-gif d", ["denoise"]),
        ("ditkit show ce", ["celeba"]),
        ("ditkit train --max", ["--max-time"]),
        ("ditkit train ./da", ["./data"]),
    ],
)
def test_completion_knows_the_names(
    line: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs")
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("_DITKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit):
        app.main([])
    assert capsys.readouterr().out.split() == expected


# --- words


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--labels a b c --out x", "--labels=a --labels=b --labels=c --out x"),
        ("--labels a --labels b", "--labels=a --labels=b"),
        ("--labels=-1 -2", "--labels=-1 -2"),
        ("--labels=-1 3", "--labels=-1 --labels=3"),
        ("--labels --out x", "--labels --out x"),
        ("--labels", "--labels"),
        ("denoise --labels a b", "denoise --labels=a --labels=b"),
        ("--seed 3 --labels a", "--seed 3 --labels=a"),
        ("--labels a -- b c", "--labels=a -- b c"),
        ("--labels -", "--labels -"),
    ],
)
def test_labels_spread_until_the_next_option(given: str, expected: str) -> None:
    assert words.spread(given.split()) == expected.split()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["cat", "dog", "cat"], ["cat", "dog", "cat"]),
        (["cat,dog", "cat"], ["cat", "dog", "cat"]),
        (["cat*2,dog"], ["cat", "cat", "dog"]),
        (["a,b"], ["a,b"]),
        (["x*2"], ["x*2"]),
        (["x*2*2"], ["x*2", "x*2"]),
        (["-1*2"], ["-1", "-1"]),
    ],
)
def test_labels_can_be_listed_and_repeated(given: list[str], expected: list[str]) -> None:
    assert words.expand_labels(given, ("cat", "dog", "a,b", "x*2", "-1")) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["cow"], "unknown label 'cow'"),
        (["cat*0"], "'0' in 'cat*0' is not a count"),
        (["cat*-1"], "'-1' in 'cat*-1' is not a count"),
        (["cat*1e9"], "'1e9' in 'cat*1e9' is not a count"),
        (["cat*²"], "is not a count"),
        (["cat*1000000000"], "more than 100,000 images"),
        (["cat*" + "9" * 30], "more than 100,000 images"),
        (["cat*60000", "dog*60000"], "more than 100,000 images"),
        ([","], "',' names no label"),
        ([""], "'' names no label"),
    ],
)
def test_wrong_labels_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        words.expand_labels(given, ("cat", "dog"))


def test_a_model_without_labels_draws_any() -> None:
    assert words.expand_labels(["any*3"], ()) == ["any"] * 3
    with pytest.raises(UsageError, match="this model has no labels, so no 'cat' either"):
        words.expand_labels(["cat"], ())


@pytest.mark.parametrize(
    ("word", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5h", 1800), (" 2M ", 120)]
)
def test_durations_are_read(word: str, seconds: float) -> None:
    assert words.duration(word) == seconds


@pytest.mark.parametrize("word", ["", "0", "-5", "nan", "inf", "1e3", "10x", "m", "1h 30", "9" * 30, "99999d"])
def test_wrong_durations_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="--max-time"):
        words.duration(word)


def test_slugs_are_safe_file_names() -> None:
    assert words.slug("Café / Été: 1") == "cafe-ete-1"
    assert words.slug("../..", "label") == "label"
    assert len(words.slug("x" * 300)) == 60


# --- errors: one line that says what is wrong, one that says what to do

WRONG = [
    ("trian mnist", "unknown command 'trian'", "did you mean 'train'"),
    ("train", "train what?", "ditkit train mnist"),
    ("train mnst", "unknown recipe, dataset, run or folder 'mnst'", "'mnist'"),
    ("train ./nowhere", "there is no folder ./nowhere", "check the path"),
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
    ("train mnist --data-dir nowhere", "--data-dir: nowhere is not a folder", "check the path"),
    ("train mnist --config nowhere.toml", "cannot read nowhere.toml", "check the path"),
    ("train mnist --set optim.lrr=1", "unknown setting 'optim.lrr'", "optim.lr"),
    ("train mnist --set steps", "--set 'steps' is not of the form section.key=value", "--set optim.lr=3e-4"),
    ("train mnist --set data.image_size=27", "image size 27x27 is not divisible by the patch size 7", "model.patch"),
    ("train mnist --set sample.sampler=ddim", "sampler 'ddim' needs a diffusion process", "sample.sampler=flow-heun"),
    ("train mnist --set model.preset=huge", "unknown model preset 'huge'", "known:"),
    ("train mnist --lr", "--lr requires an argument", "ditkit train --help"),
    ("train mnist extra", "unexpected: extra", "ditkit train --help"),
    ("sample cat", "unexpected: cat", "labels follow --labels"),
    ("sample --labels", "--labels requires an argument", "ditkit sample --help"),
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
    ("sample --device gpu", "unknown device 'gpu'", "cpu"),
    ("sample --model pest", "unknown run 'pest'", "did you mean 'pets'"),
    ("sample --model notes.txt", "notes.txt is not a .safetensors file", "weights file"),
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
    ("make-gif train --labels cat", "--labels is for denoising", "make-gif denoise"),
    ("make-gif denoise --labels cow", "unknown label 'cow'", "known: cat, dog"),
    ("make-gif denoise --labels cat*101", "too many for a GIF", "fewer"),
    ("make-gif a b", "a and b are two runs", "denoise"),
    ("make-gif --out x.png", "x.png is not the name of a GIF", ".gif"),
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
    ("line", "message", "hint"),
    [
        ("sample", "there is no run in runs", "ditkit train mnist"),
        ("plot-loss", "there is no run in runs", "ditkit train mnist"),
        ("make-gif", "there is no run in runs", "ditkit train mnist"),
        ("show", "there is no run in runs", "ditkit train mnist"),
        ("train folder", "needs a folder of images", "--data-dir"),
        ("train celeba", "needs the images on disk", "--data-dir"),
        ("sample --model damaged.safetensors", "is not a weights file of ditkit", "another checkpoint"),
        ("sample --model bare", "bare has no checkpoint yet", "train it longer"),
        ("make-gif bare", "bare has no sample grids yet", "train it longer"),
        ("plot-loss bare", "bare has no losses yet", "train it first"),
    ],
)
def test_what_is_missing_is_told_with_exit_code_1(
    line: str, message: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 20)
    if "bare" in line:
        (tmp_path / "runs/bare").mkdir(parents=True)
        (tmp_path / "runs/bare/config.toml").write_text("", encoding="utf-8")
    code, out, err = said(capsys, line)
    assert (code, out) == (1, "")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "hint"]
    assert message in err and hint in err


def test_images_that_are_there_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/001-dog.png").write_bytes(b"mine")
    code, _, err = said(capsys, "sample --labels cat dog --out out")
    assert code == 1
    assert "error: out/001-dog.png is there already\nhint: overwrite with --force" in err
    assert (tmp_path / "out/001-dog.png").read_bytes() == b"mine"


def test_diffusion_takes_no_more_steps_than_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", recipe="paper")
    code, _, err = said(capsys, "sample --steps 1001")
    assert code == 2
    assert "1001 sampling steps are more than the 1000 timesteps" in err


def test_unexpected_failures_are_one_line_unless_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr("ditkit.cli.complete.recipes", broken)
    code, _, err = said(capsys, "list recipes")
    assert code == 1
    assert err == "error: internal error: ZeroDivisionError: oh no; run again with --debug for the traceback\n"
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
    ],
)
def test_the_systems_own_errors_are_told_plainly(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert console.report(error) == 1
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


# --- show and list


def test_show_prints_toml_that_builds_the_same_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "show mnist")
    assert (code, err) == (0, "")
    (tmp_path / "mine.toml").write_text(out, encoding="utf-8")
    assert recipes.build(recipes.parse(tmp_path / "mine.toml")) == recipes.load("mnist")


def test_show_prints_a_run_and_by_default_the_newest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", "faces", recipe="celeba")
    expected = recipes.dump(recipes.load("celeba"))
    for line in ("show", "show faces", "show runs/faces", "show faces --runs-dir runs"):
        assert said(capsys, line) == (0, expected, "")


def test_list_names_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "list")
    for word in ("datasets:", "  mnist", "recipes:", "  paper", "models:", "  dit-xl/2", "objectives:", "samplers:"):
        assert f"{word}" in out
    for name, described in recipes.descriptions().items():
        line = next(line for line in said(capsys, "list recipes")[1].splitlines() if line.startswith(name))
        assert described in line


# --- progress


def start(steps: int, step: int = 0) -> Started:
    return Started(
        folder=Path("runs/x"),
        step=step,
        steps=steps,
        device="cpu",
        dtype="float32",
        parameters=4_200_000,
        images=60_000,
        labels=("a", "b"),
    )


def told(
    steps: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seconds: float, quiet: bool = False
) -> list[str]:
    now = [0.0]
    monkeypatch.setattr("ditkit.cli.progress.time.monotonic", lambda: now[0])
    with TrainingProgress("x", quiet=quiet) as progress:
        progress(start(steps))
        progress(Validated(step=0, loss=0.5))
        for step in range(1, steps + 1):
            now[0] += seconds
            progress(Stepped(step=step, loss=1.0, lr=1e-3, images_per_second=1234.0))
    return capsys.readouterr().err.splitlines()


def test_plain_progress_is_about_twenty_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = told(1000, capsys, monkeypatch, seconds=1.0)
    assert lines[0] == "training x: 4.2M parameters on cpu (float32), 60,000 images, 2 labels, in runs/x"
    assert 20 <= len(lines) <= 24
    assert lines[2] == "step   50/1000  loss 1.0000  val 0.5000  1,234 images/s  lr 1.00e-03  15m50s left"
    assert lines[-1].startswith("step 1000/1000") and "left" not in lines[-1]


def test_plain_progress_is_at_most_a_line_in_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(told(1000, capsys, monkeypatch, seconds=0.05)) <= 3 + 5


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(100, capsys, monkeypatch, seconds=1.0, quiet=True) == []


def test_the_end_of_a_run_says_what_to_type_next() -> None:
    folder = Path("my runs/x")
    done = Finished(step=9, steps=9, seconds=598.0, reason="done", folder=folder)
    assert next_steps(done, ("a b", "c"), elsewhere=False) == [
        "done: 9 steps in 9m58s, in my runs/x",
        "next: `ditkit sample --labels 'a b' c`",
    ]
    assert next_steps(done, (), elsewhere=True)[1] == "next: `ditkit sample --model 'my runs/x'`"
    stopped = Finished(step=4, steps=9, seconds=1.0, reason="stopped", folder=folder)
    assert next_steps(stopped, (), elsewhere=False) == [
        "stopped at step 4 of 9, all saved; continue with `ditkit train 'my runs/x'`"
    ]
