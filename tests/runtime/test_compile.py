"""Compiling: only where it works and pays back, and never without being written down."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from training_runs import digest, run

from ditkit import recipes
from ditkit.errors import MachineError
from ditkit.events import Started, Warned
from ditkit.runs.folder import RunFolder
from ditkit.runtime import compile
from ditkit.training import step
from ditkit.training.step import SpeedOptions

CPU = torch.device("cpu")


@pytest.fixture
def compiler(monkeypatch):
    """torch.compile's place: counts what it is asked to compile, and leaves it as it is."""
    asked = []

    def compiled(network):
        asked.append(network)
        return network.forward

    monkeypatch.setattr(compile, "compiled", compiled)
    monkeypatch.setattr(compile, "why_not", lambda device: None)
    return asked


def test_long_runs_pay_back_and_short_ones_do_not():
    long = recipes.load("celeba", {"train": {"steps": 100_000}})
    assert compile.pays_back(long, CPU, 2)
    assert not compile.pays_back(recipes.load("celeba", {"train": {"steps": 300}}), CPU, 2)
    assert not compile.pays_back(long, torch.device("mps"), 2)


@pytest.mark.parametrize(
    ("word", "before", "expected"), [("auto", None, False), ("auto", True, True), ("on", None, True)]
)
def test_the_word_decides_then_how_the_run_began_then_its_length(tiny, word, before, expected, compiler):
    assert compile.decide(word, before, tiny(), CPU) == (expected, None)
    assert compile.decide("off", True, tiny(), CPU) == (False, None)


def test_without_a_compiler_auto_goes_on_with_one_line_and_on_is_an_error(tiny, monkeypatch):
    monkeypatch.setattr(compile, "why_not", lambda device: "no C++ compiler")
    compile_it, text = compile.decide("auto", True, tiny(), CPU)
    assert not compile_it
    assert "not compiled" in text and "no C++ compiler" in text
    with pytest.raises(MachineError, match="no C\\+\\+ compiler"):
        compile.decide("on", None, tiny(), CPU)


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_found_out(tmp_path):
    code = "import torch; from ditkit.runtime.compile import why_not; print(why_not(torch.device('cpu')))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CXX": str(tmp_path / "none"), "PATH": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.strip() != "None", done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_what_is_compiled_is_said_and_kept_when_the_run_goes_on(tiny, tmp_path, compiler):
    listener = run(tiny(), tmp_path / "r", stop_after=3, speed=SpeedOptions(compile="on"))
    assert listener.of(Started)[0].device == "cpu, compiled"
    state = json.loads((RunFolder(tmp_path / "r").checkpoint(3) / "state.json").read_text())
    assert state["compiled"] is True
    assert not run(tiny(), tmp_path / "r", stop_after=5).of(Warned)
    assert len(compiler) == 2
    warned = run(tiny(), tmp_path / "r", speed=SpeedOptions(compile="off")).of(Warned)
    assert ["compiled True is now False" in event.text for event in warned] == [True]


def test_only_parts_of_the_usual_size_are_compiled(tiny, tmp_path, monkeypatch):
    sizes = []

    def compiled(network):
        def forward(x_BCHW, *rest):
            sizes.append(len(x_BCHW))
            return network(x_BCHW, *rest)

        return forward

    monkeypatch.setattr(compile, "compiled", compiled)
    monkeypatch.setattr(compile, "why_not", lambda device: None)
    monkeypatch.setattr(step, "micro_batches_for", lambda *_: 3)
    run(tiny(train={"steps": 2}), tmp_path / "r", speed=SpeedOptions(compile="on"))
    assert sizes == [6] * 2  # of 16 images: 6, 5 and 5


def test_a_compiled_run_learns_the_same_and_continues_to_the_last_bit(tiny, tmp_path, long_mode):
    if not long_mode:
        pytest.skip("compiling takes half a minute; run with --long")
    assert compile.why_not(CPU) is None
    config = tiny(model={"depth": 1, "width": 16}, train={"steps": 4})
    eager = run(config, tmp_path / "eager")
    compiled = run(config, tmp_path / "straight", speed=SpeedOptions(compile="on"))
    losses = [[event.metrics["loss"] for event in one.events if hasattr(event, "metrics")] for one in (eager, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    run(config, tmp_path / "parts", stop_after=2, speed=SpeedOptions(compile="on"))
    run(config, tmp_path / "parts")
    assert digest(tmp_path / "parts") == digest(tmp_path / "straight")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows keeps each user's cache from the others")
def test_compiled_code_lies_where_only_its_user_can_write(tmp_path, monkeypatch):
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    assert compile.why_not(torch.device("cpu")) is None
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled/inductor")
    assert (tmp_path / "compiled").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows keeps each user's cache from the others")
def test_nothing_is_compiled_into_a_folder_of_another_user(tmp_path, monkeypatch):
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert "is another user's, who could put code there" in (compile.why_not(torch.device("cpu")) or "")
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
