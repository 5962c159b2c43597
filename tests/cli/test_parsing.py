"""Words of the command line as values, and a run's progress as words."""

from __future__ import annotations

import re
import shlex
import unicodedata
from pathlib import Path

import pytest
from platforms import as_windows

from ditkit.cli import parsing
from ditkit.errors import UsageError
from ditkit.events import Finished, Started, Stepped, Validated
from ditkit.io import text
from ditkit.runs.label_words import expand_labels
from ditkit.visual.training_progress import TrainingProgress, next_steps

# --- labels, durations, names


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
    assert parsing.spread(given.split()) == expected.split()


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
    assert expand_labels(given, ("cat", "dog", "a,b", "x*2", "-1")) == expected


def test_classes_have_numbers_where_no_label_is_one() -> None:
    assert expand_labels(["1*2,dog", "0"], ("cat", "dog")) == ["dog", "dog", "dog", "cat"]
    assert expand_labels(["1"], ("2", "1")) == ["1"]
    with pytest.raises(UsageError, match="unknown label '0'"):
        expand_labels(["0"], ("cat", "-1"))
    for word in ("2", "0000000001"):
        with pytest.raises(UsageError, match=f"there is no class {word}") as caught:
            expand_labels([word], ("cat", "dog"))
        assert "numbers 0 to 1" in str(caught.value.hint)


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
        expand_labels(given, ("cat", "dog"))


def test_a_model_without_labels_draws_any() -> None:
    assert expand_labels(["any*3"], ()) == ["any"] * 3
    with pytest.raises(UsageError, match="this model has no labels, so no 'cat' either"):
        expand_labels(["cat"], ())


@pytest.mark.parametrize(
    ("word", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5h", 1800), (" 2M ", 120)]
)
def test_durations_are_read(word: str, seconds: float) -> None:
    assert parsing.duration(word) == seconds


@pytest.mark.parametrize("word", ["", "0", "-5", "nan", "inf", "1e3", "10x", "m", "1h 30", "9" * 30, "99999d"])
def test_wrong_durations_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="--max-time"):
        parsing.duration(word)


@pytest.mark.parametrize("word", ["10", "0.5", " 3600 "])
def test_a_duration_without_a_unit_is_not_guessed_at(word: str) -> None:
    number = word.strip()
    with pytest.raises(UsageError, match=f"--max-time: {number} has no unit") as caught:
        parsing.duration(word)
    assert caught.value.hint == f"write {number}s, {number}m or {number}h"


def test_slugs_are_safe_file_names() -> None:
    assert text.slug("Café / Été: 1") == "cafe-ete-1"
    assert text.slug("../..", "label") == "label"
    assert len(text.slug("x" * 300)) == 60


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
    monkeypatch.setattr("ditkit.visual.training_progress.time.monotonic", lambda: now[0])
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


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nul", "keeps that name to itself"),
        ("AUX", "keeps that name to itself"),
        ("com1.first", "keeps that name to itself"),
        ("faces.", "dot or space at the end"),
        ("a:b", "does not allow one of its letters"),
        ("what?", "does not allow one of its letters"),
    ],
)
def test_no_run_is_named_what_windows_cannot_have(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"--as: .* cannot name a folder on every system: Windows .*{why}"):
        text.run_name(name, "--as")
    assert text.why_not_on_windows(text.slug(name)) is None


@pytest.mark.parametrize("name", ["nullify", "console", "com10", "v1.2", "Gesichter_2", "写真"])
def test_names_that_only_look_like_those_of_windows_are_free(name: str) -> None:
    assert text.run_name(name) == name and text.why_not_on_windows(name) is None


def test_commands_in_hints_can_be_pasted_into_the_shells_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train", "runs/mnist", "my runs/a", "it's", 'say "a"', "a,b")
    assert shlex.split(text.shell_words(*words)) == list(words)
    as_windows(monkeypatch, text)
    assert text.shell_words("train", r"runs\mnist", "--set", "optim.lr=0.1") == r"train runs\mnist --set optim.lr=0.1"
    assert text.shell_words(r"C:\my runs\a", "it's", "a,b", 'a "b"') == r'''"C:\my runs\a" "it's" "a,b" "a \"b\""'''


def test_slugs_keep_letters_of_other_scripts_and_are_names_on_every_system() -> None:
    names = ["写真", "日本", "ガラス", "한국어 사진", "हिन्दी", "Ελλάδα 1", "a/写\\真:*", "con", "NUL.txt", "🐱"]
    slugs = [text.slug(name, "folder") for name in names]
    assert slugs[:6] == ["写真", "日本", "ガラス", "한국어-사진", "हिन्दी", "ελλάδα-1"]
    assert slugs[6:] == ["a-写-真", "folder-con", "folder-nul.txt", "folder"]
    assert text.slug(unicodedata.normalize("NFD", "Käse ガ")) == "kase-ガ"
    assert len(text.slug("写" * 300).encode()) <= 120
    assert all(text.run_name(name) == name for name in slugs)
