"""Every option of every command and every setting, given nonsense: one line at once, or an answer that makes sense.

Options and settings are found from the command line and from RunConfig themselves, so that a new one is tested by
existing: with four kinds of nonsense, and with all kinds where it is the first of its parser, or under --long.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch._dynamo  # noqa: F401 (torch imports it when first asked for shapes: not on the clock of a test)
from command_line import draw_black, walk, write_run
from PIL import Image

import ditkit.visual.html_report  # noqa: F401 (else it would import, and keep, what stands in for plots)
from ditkit import recipes
from ditkit.cli import app
from ditkit.config import RunConfig, flat, to_dict
from ditkit.evaluation.evaluate import Evaluation
from ditkit.runs.folder import RunFolder

pytestmark = pytest.mark.timeout(120)

ABSURD = [
    "1e12",
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e-400",
    "7" * 30,
    "7" * 5000,
    "",
    "  ",
    "\U0001f642",
    "\u202eedoc",
    "\u0663",
    "caf\udce9",
    "x" * 10_000,
    "../../etc",
    "--",
    "-",
    "1_000",
    "0x10",
    " 5 ",
    "a\nb",
    "\x1b[31m",
    "[red]",
    "~",
    "None",
    "1e5/0",
    "{}",
]
FOUR = ["-1", "nan", "", "caf\udce9 \x1b[31m"]  # out of range, not a number, nothing, what no terminal shows
PLACES = {
    "--config",
    "--data-dir",
    "--autoencoder",
    "--label-file",
    "--runs-dir",
    "--out",
    "--model",
    "--init-from",
    "--autoguide",
    "--device",
}  # and every argument
BASES = {
    "train": ["mnist"],
    "estimate": ["mnist"],
    "lr-find": ["mnist"],
    "make-gif": ["denoise"],
    "evaluate": ["pets"],
    "sweep": ["pets"],
    "compare": ["pets", "runs/pets"],
    "data show": ["mnist"],
}
EVALUATION = Evaluation(
    metrics={"precision": 1.0},
    about={
        "drawn": {"samples": 10, "sampler": "ddim", "steps": 1, "guidance": 1.0},
        "reference": {"images": 10},
        "features": {"name": "lenet", "distance": "distance"},
    },
)
COMMAND = app.command()
COMMANDS = dict(walk(COMMAND))


def _parameters() -> Iterator[tuple[str, str]]:
    """(command, option or argument) of all there are; help and completion are Typer's own."""
    for command, built in COMMANDS.items():
        for parameter in built.params:
            yield command, parameter.opts[0]


def _parser(command: str, name: str) -> tuple[str, str, int, bool]:
    """What reads an option's words: options of one name, value and count have one parser, whatever the command."""
    parameter = next(parameter for parameter in COMMANDS[command].params if parameter.opts[0] == name)
    return name, parameter.metavar or "", parameter.nargs, getattr(parameter, "is_flag", False)


FIRST = {_parser(command, name): (command, name) for command, name in reversed([*_parameters()])}  # of each parser


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one run, three folders deep, where nothing trains and nothing is drawn."""
    from ditkit.data import mnist
    from ditkit.data.sources import idx
    from ditkit.training import loop

    digits = idx.IdxImages(
        labels=mnist.LABELS,
        fingerprint="",
        images=np.zeros((10, 28, 28), np.uint8),
        label_ids=np.arange(10),
        image_size=(28, 28),
        channels=1,
    )
    place = tmp_path / "one/two/home"
    run = write_run(place / "runs")
    (run / "samples").mkdir()
    Image.new("L", (8, 8)).save(run / "samples/step-0000100.png")
    monkeypatch.setattr(loop, "train", lambda *_, **__: None)
    monkeypatch.setattr("ditkit.data.mnist.dataset", lambda config, split: digits)
    monkeypatch.setattr("ditkit.estimation.lr_finder.find_lr", lambda *_, **__: None)
    monkeypatch.setattr("ditkit.cli.lr_find.draw", lambda curve, path: path)
    monkeypatch.setattr("ditkit.cli.lr_find._print_curve", lambda *_, **__: None)
    draw_black(monkeypatch)
    monkeypatch.setattr("ditkit.cli.evaluate._judged", lambda *_, **__: EVALUATION)
    monkeypatch.setattr("ditkit.evaluation.compare.compare", lambda *_, **__: {"runs": [], "differing": {}})
    monkeypatch.setattr("ditkit.evaluation.sweep.sweep", lambda *_, **__: [])
    monkeypatch.setattr("ditkit.evaluation.sweep.table", lambda _rows: [])
    monkeypatch.setattr("ditkit.estimation.report.estimate", lambda *_, **__: {})
    monkeypatch.setattr("ditkit.estimation.report.report_lines", lambda _: [])
    monkeypatch.setattr("ditkit.visual.plots.plot_losses", lambda *_, **__: None)
    monkeypatch.setattr("ditkit.visual.plots.save_figure", lambda figure, path: path.touch())
    monkeypatch.setattr("ditkit.runtime.installation.PARTS", ())
    monkeypatch.setattr("ditkit.runtime.installation.describe_devices", lambda name: iter(()))
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.chdir(place)
    return place


def _tree(home: Path) -> dict[Path, int | bool]:
    # Not when a folder changed: a name in it may have been claimed for results, and released.
    return {path: path.is_dir() or path.stat().st_mtime_ns for path in sorted(home.parents[2].rglob("*"))}


def _tried(home: Path, words: list[str], capsysbinary: pytest.CaptureFixture[bytes], allowed: set[int]) -> str:
    """What a command line says on stderr, after all that must hold of it whatever it was given."""
    words = [
        os.fsdecode(word.encode("utf-8", "surrogateescape")) for word in words
    ]  # as Python gets them, also where LC_ALL=C
    before = _tree(home)
    began = time.process_time()  # not the wall's: waiting for a core that others use is no fault of the command
    code = app.main(words)
    seconds = time.process_time() - began
    out, err = (part.decode("utf-8", "surrogateescape") for part in capsysbinary.readouterr())
    shown = [word[:60] for word in words]
    assert code in allowed, (shown, code, err[-2000:])
    assert "Traceback" not in out + err and "internal error" not in err, (shown, err)
    assert all(line.isprintable() for line in err.splitlines()), (shown, err)
    assert seconds < 1, (shown, seconds)
    kinds = [line.partition(":")[0] for line in err.splitlines()]
    if code:
        assert kinds in (["error"], ["error", "hint"]), (shown, err)
        assert all(len(line) < 1200 for line in err.splitlines()), shown
        assert out == "" or words[0] == "doctor", shown  # which reports what it finds as it goes
        assert _tree(home) == before, (shown, set(_tree(home)) ^ set(before))
    else:
        assert "error" not in kinds, (shown, err)
        for path in sorted(set(_tree(home)) - set(before), reverse=True):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    return err


@pytest.mark.parametrize(("command", "name"), [*_parameters()])
def test_nonsense_is_one_line_at_once_and_leaves_nothing(
    command: str, name: str, home: Path, capsysbinary: pytest.CaptureFixture[bytes], long_mode: bool
):
    parameter = next(one for one in COMMANDS[command].params if one.opts[0] == name)
    whole = long_mode or FIRST[_parser(command, name)] == (command, name)
    places = {0, 2, 3, 4, 6} if name in PLACES or parameter.param_type_name == "argument" else {0, 2}
    for value in ABSURD if whole else FOUR:
        values = [value] * max(1, parameter.nargs)
        if parameter.param_type_name == "argument":
            first = ["denoise"] if name == "which" else []
            words = [*command.split(), *first, *values]
        elif getattr(parameter, "is_flag", False):
            words = [*command.split(), *BASES.get(command, []), f"{name}={value}"]
        else:
            words = [*command.split(), *BASES.get(command, []), name, *values]
        _tried(home, words, capsysbinary, places)


def test_the_search_for_options_finds_them():
    found = set(_parameters())
    assert {
        ("train", "--steps"),
        ("sample", "--guidance"),
        ("make-gif", "which"),
        ("list", "family"),
        ("data show", "--limit"),
        ("data remove", "names"),
    } <= found
    assert len(found) > 70 and len(ABSURD) >= 12


@pytest.mark.parametrize("name", ["DITKIT_RUNS", "DITKIT_CACHE", "COLUMNS", "LINES", "TERM", "LANG", "RANK"])
def test_nonsense_in_the_environment_is_one_line_or_no_matter(
    name: str, home: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
):
    for value in ABSURD:
        monkeypatch.setenv(name, os.fsdecode(value.encode("utf-8", "surrogateescape")))
        _tried(home, ["show"], capsysbinary, {0, 2})
        _tried(home, ["plot-loss", "--terminal"], capsysbinary, {0, 2})
        _tried(home, ["data", "list"], capsysbinary, {0, 6})


@pytest.mark.parametrize("value", ["", "0", "1", "banana", "\U0001f642"])
def test_any_word_in_ditkit_debug_is_yes(
    value: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DITKIT_DEBUG", os.fsdecode(value.encode()))
    assert app.main(["list", "recipes"]) == 0
    assert app.main(["show", "nope"]) == 2
    assert ("Traceback" in capsys.readouterr().err) == (value not in ("", "0"))


def test_a_gif_of_ten_thousand_steps_keeps_a_hundred_pictures(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import torch

    from ditkit.sampling.generate import Sample
    from ditkit.visual import grid as visual_grid

    def draw(_trained: Any, labels: list[str], *, on_step: Any, **_: Any) -> list[Sample]:
        for step in range(10_000):
            on_step(step, 10_000, None, torch.zeros(len(labels), 1, 4, 4))
        return [Sample(np.zeros((4, 4, 1), np.uint8), label, 0) for label in labels]

    kept: list[object] = []
    grid = visual_grid.grid
    monkeypatch.setattr("ditkit.sampling.generate.sample", draw)
    monkeypatch.setattr(visual_grid, "grid", lambda *words, **options: kept.append(0) or grid(*words, **options))
    assert app.main(["make-gif", "denoise", "--steps", "10000", "--labels", "cat", "--out", "a.gif"]) == 0
    with Image.open("a.gif") as picture:
        assert 100 <= len(kept) <= 120 and getattr(picture, "n_frames", 1) > 1


# --- settings

KEYS = sorted(flat(dataclasses.asdict(RunConfig())))


def _type(key: str) -> str:
    """The name of a setting's type: settings of one type have one parser, and limits of their own."""
    owner: Any = RunConfig()
    *sections, last = key.split(".")
    for section in sections:
        owner = getattr(owner, section)
    annotation = next(str(field.type) for field in dataclasses.fields(owner) if field.name == last)
    return re.sub(r"Annotated\[(\w+), .*?\]|\[.*\]", r"\1", annotation)


FIRST_OF_TYPE = set({_type(key): key for key in reversed(KEYS)}.values())
NO_KEYS = ["model.preset", "nonsense", "model.nonsense", "model", "train.steps.x", "."]


@pytest.mark.parametrize("key", [*KEYS, *NO_KEYS])
def test_every_setting_refuses_nonsense_in_one_line(
    key: str, home: Path, capsysbinary: pytest.CaptureFixture[bytes], long_mode: bool
):
    refused, values = 0, ABSURD if long_mode or key in {*FIRST_OF_TYPE, *NO_KEYS} else FOUR
    for value in values:
        allowed = {0, 2, 3} if key in ("data.path", "data.name") else {0, 2}
        err = _tried(home, ["train", "mnist", "--set", f"{key}={value}"], capsysbinary, allowed)
        refused += bool(err.startswith("error:"))
    assert refused > len(values) // 5 or key in ("data.path", "data.label_by"), "any word may be a path or an attribute"


NONSENSE = ["1e12", "0", "-1", "-1.5", "nan", "inf", "1e-400", "7" * 30, '""', '"  "', '"\U0001f642"', '"../../etc"']
NONSENSE += [
    "[]",
    "[[1]]",
    "{}",
    "{ x = 1 }",
    "true",
    "1979-05-27",
    '"1_000"',
    '"0x10"',
    '"\\u001b[31m"',
    '"' + "x" * 9999 + '"',
]
FOUR_WRITTEN = ["-1.5", '""', "[]", '"\\u001b[31m"']


@pytest.mark.parametrize("key", KEYS)
def test_a_run_whose_settings_were_edited_into_nonsense_names_file_and_key(
    key: str, home: Path, capsysbinary: pytest.CaptureFixture[bytes], long_mode: bool
):
    run = RunFolder(home / "runs/pets")
    tree = to_dict(recipes.load("mnist"))
    section, _, last = key.rpartition(".")
    refused, values = 0, NONSENSE if long_mode or key in FIRST_OF_TYPE else FOUR_WRITTEN
    for value in values:
        edited = {one: dict(part) if isinstance(part, dict) else part for one, part in tree.items()}
        (edited[section] if section else edited)[last] = "HERE"
        run.config_file.write_text(tomli_w.dumps(edited).replace('"HERE"', value, 1), encoding="utf-8")
        err = _tried(home, ["train", "pets"], capsysbinary, {0, 2, 3} if key in ("data.path", "data.name") else {0, 2})
        if err.startswith("error:"):
            refused += 1
            if key not in ("data.path", "data.name"):  # known to be wrong only when the images are opened
                assert "config.toml" in err and (last in err or f"unknown {section} " in err), (value, err)
    assert refused > len(values) // 5 or key in ("data.path", "data.label_by")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"\x00" * 100,
        b"[model]\nwidth = ",
        b"[model]\nwidth = 1\nwidth = 2\n",
        b"model = 3\n",
        b"[[model]]\nwidth = 1\n",
        b"[model.width]\nx = 1\n",
        b"a = " + b"[" * 100_000,
        b"a = " + b"9" * 10_000,
        "[model]\r\nwidth = 96 # \u7a7a\r\n".encode("utf-16"),
        b"[modle]\nwidth = 96\n",
        b"<html></html>",
    ],
    ids=lambda content: repr(content[:20]),
)
@pytest.mark.parametrize("line", ["train pets", "show pets", "train --config runs/pets/config.toml"])
def test_a_settings_file_that_is_none_is_named(
    content: bytes, line: str, home: Path, capsysbinary: pytest.CaptureFixture[bytes]
):
    (home / "runs/pets/config.toml").write_bytes(content)
    err = _tried(home, line.split(), capsysbinary, {0} if not content else {2})
    assert not content or "config.toml" in err
