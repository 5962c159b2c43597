"""Compiling: only where it works and pays back, and never without being written down."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time

import pytest
import torch
from training_runs import digest, run

from ditkit import recipes
from ditkit.errors import MachineError
from ditkit.events import Started, Warned
from ditkit.io.progress import no_progress, reporting_to
from ditkit.runs.folder import RunFolder
from ditkit.runtime import compile, compile_times
from ditkit.runtime.distributed import ProcessGroup
from ditkit.training import step
from ditkit.training.step import SpeedOptions

CPU = torch.device("cpu")


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """torch.compile's place: counts what it is asked to compile, and leaves it as it is; nothing was compiled yet."""
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "cache"))
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


@contextlib.contextmanager
def heard():
    """The lines that are said within."""
    said = []
    with reporting_to(lambda text: no_progress(said.append(text) or text)):
        yield said


def opened(word, before, config, until=math.inf, group=ProcessGroup()):
    """Whether a network is compiled, and the lines that are said before and instead."""
    with heard() as said:
        forward, text = compile.open_compiled(word, before, config, torch.nn.Linear(1, 1), CPU, group, until)
    return forward is not None, [*said, *([text] if text else [])]


@pytest.fixture
def long():
    """A run that is long enough to be compiled."""
    return recipes.load("celeba", {"train": {"steps": 100_000}})


@pytest.mark.parametrize(
    ("word", "before", "expected"),
    [("auto", None, False), ("auto", True, True), ("on", None, True), ("off", True, False)],
)
def test_the_word_decides_then_how_the_run_began_then_its_length(tiny, word, before, expected, compiler):
    assert opened(word, before, tiny())[0] is expected


def test_compiling_is_said_before_it_begins_with_the_time_that_it_took(long, compiler, monkeypatch):
    def why_not(device):
        assert compiler == []
        return

    monkeypatch.setattr(compile, "why_not", why_not)
    ending = "(--compile off skips it)"
    assert opened("auto", None, long) == (True, [f"compiling the network: it may take a minute {ending}"])
    compiler.clear()
    compile_times.remember(long, CPU, 78.4)
    taken = f"it took 1m18s last time on this machine {ending}"
    assert opened("on", None, long) == (True, [f"compiling the network: {taken}"])
    compiler.clear()
    assert opened("auto", True, long) == (True, [f"compiling the network, as before in this run: {taken}"])


def test_nothing_is_compiled_that_the_time_of_the_command_cannot_pay_back(tiny, long, compiler):
    now = time.monotonic()
    compiles, said = opened("auto", None, long, until=now + 600)
    assert not compiles and "the time that the command has is too short to pay it back" in said[0]
    assert opened("auto", None, long, until=now + 1300)[0]
    compile_times.remember(long, CPU, 600)
    assert not opened("auto", None, long, until=now + 1300)[0]
    assert opened("on", None, long, until=now + 1)[0]
    assert opened("auto", True, long, until=now + 1)[0]  # or it would differ in the last bits
    assert opened("auto", None, tiny(), until=now + 1) == (False, [])


def test_a_run_hears_how_much_time_it_has(tiny, tmp_path, monkeypatch):
    times = []

    def open_compiled(*arguments):
        times.append(arguments[-1] - time.monotonic())
        return None, None

    monkeypatch.setattr(compile, "open_compiled", open_compiled)
    run(tiny(train={"steps": 1}), tmp_path / "a", max_seconds=500)
    run(tiny(train={"steps": 1}), tmp_path / "b")
    assert times == [pytest.approx(490, abs=10), math.inf]


def test_all_processes_compile_or_none(long, compiler):
    class Group(ProcessGroup):
        def all_gather(self, value):
            return [value, "no C++ compiler"]

    assert opened("auto", None, long, group=Group())[1][-1].endswith("no C++ compiler")
    assert not compiler


def test_the_time_that_compiling_took_is_kept_for_each_network(long, tiny, tmp_path, monkeypatch, compiler):
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(compile, "compiled", lambda network: lambda x: time.sleep(0.11))
    forward, _ = compile.open_compiled("on", None, long, torch.nn.Linear(1, 1), CPU, ProcessGroup())
    assert forward is not None and compile_times.last_time(long, CPU) is None
    forward(torch.zeros(1))
    assert 0.1 <= (compile_times.last_time(long, CPU) or 0) < 5
    monkeypatch.setattr(compile, "remember", pytest.fail)  # only the first call compiles
    forward(torch.zeros(1))
    assert compile_times.last_time(tiny(), CPU) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"KEY": -1}', '{"KEY": "60"}', '{"KEY": NaN}', '{"KEY": true}'])
def test_a_damaged_file_of_times_says_nothing_and_is_written_again(long, tmp_path, monkeypatch, content):
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path))
    compile_times.remember(long, CPU, 5)
    path = tmp_path / "compiled/times.json"
    (key,) = json.loads(path.read_text())
    path.write_text(content.replace("KEY", key))
    assert compile_times.last_time(long, CPU) is None
    compile_times.remember(long, CPU, 6)
    assert compile_times.last_time(long, CPU) == 6


def test_without_a_compiler_auto_goes_on_with_one_line_and_on_is_an_error(tiny, monkeypatch):
    monkeypatch.setattr(compile, "why_not", lambda device: "no C++ compiler")
    compiles, said = opened("auto", True, tiny())
    assert not compiles
    assert "not compiled" in said[-1] and "no C++ compiler" in said[-1]
    with pytest.raises(MachineError, match="no C\\+\\+ compiler"):
        opened("on", None, tiny())


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


@pytest.mark.slow
def test_each_number_of_threads_is_compiled_however_many_there_were(monkeypatch):
    graphs, real, before = [], torch.compile, torch.get_num_threads()

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **words: real(function, backend=backend, **words))
    try:
        forward = compile.compiled(torch.nn.Linear(4, 4))
        for threads in (*range(1, 13), 1, 12):
            torch.set_num_threads(threads)
            forward(torch.zeros(2, 4))
    finally:
        torch.set_num_threads(before)
        torch.compiler.reset()
    assert len(graphs) == 12


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


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_network_that_does_not_compile_is_trained_without_and_that_is_said(tiny, tmp_path, monkeypatch, where):
    def fails(*_):
        raise RuntimeError("backend='inductor' raised:\nCppCompileError: C++ compile error")

    def compiled(network):
        def forward(*given):
            output = network(*given)
            output.register_hook(fails)
            return output

        return fails if where == "forward" else forward

    monkeypatch.setattr(compile, "compiled", compiled)
    monkeypatch.setattr(compile, "why_not", lambda device: None)
    monkeypatch.setattr(step, "micro_batches_for", lambda *_: 2)
    run(tiny(train={"steps": 3}), tmp_path / "eager", speed=SpeedOptions(kernels="off"))
    with heard() as said:
        run(tiny(train={"steps": 3}), tmp_path / "r", speed=SpeedOptions(compile="on"))
    assert [text for text in said if "raised" in text] == [
        "warning: the network is not compiled, so steps take a little longer: backend='inductor' raised:"
    ]
    assert digest(tmp_path / "r") == digest(tmp_path / "eager")
    assert not json.loads((RunFolder(tmp_path / "r").checkpoint(3) / "state.json").read_text())["compiled"]


def test_an_error_of_a_later_step_is_not_taken_for_the_compilers(tiny, tmp_path, monkeypatch):
    calls = []

    def compiled(network):
        def forward(*given):
            calls.append(given)
            if len(calls) == 2:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return network(*given)

        return forward

    monkeypatch.setattr(compile, "compiled", compiled)
    monkeypatch.setattr(compile, "why_not", lambda device: None)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(tiny(), tmp_path / "r", speed=SpeedOptions(compile="on"))


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
