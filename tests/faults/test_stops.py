"""Work that is asked to stop ends soon, whatever its workers and its terminal do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import fork, in_fresh_process, words, write_digits
from patience import Limit, scaled
from training_runs import digest, run

from ditkit.cli import console
from ditkit.cli.app import main
from ditkit.errors import BusyError, MachineError
from ditkit.events import Warned
from ditkit.runs.folder import RunFolder, lock
from ditkit.runs.metrics import read_rows

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs fork and POSIX signals")


@pytest.mark.faults
def test_a_second_ctrl_c_ends_a_run_whose_workers_are_frozen_within_seconds(tmp_path: Path) -> None:
    result = in_fresh_process("kills:frozen_workers", folder=tmp_path, twice=True)
    assert result["exit"] == 130 and result["seconds"] < scaled(3) and result["left"] == 0, result


@pytest.mark.faults
def test_frozen_workers_end_the_run_after_the_time_out_and_its_steps_are_saved(tmp_path: Path) -> None:
    result = in_fresh_process("kills:frozen_workers", folder=tmp_path, twice=False)
    assert result["exit"] == 6 and result["seconds"] < scaled(20) and result["left"] == 0, result
    assert result["saved"] >= 3 and f"(step {result['saved']} is kept)" in result["said"], result


@pytest.mark.faults
def test_a_terminal_that_closes_stops_a_run_as_a_signal_does(tmp_path: Path) -> None:
    case = {"number": signal.SIGHUP, "start": "fork"}
    (result,) = in_fresh_process("kills:group_signals", folder=tmp_path, cases=[case])
    assert (result["exit"], result["lost"], result["equal"]) == (143, 0, True), result


@pytest.mark.faults
def test_lr_auto_stops_where_it_is(tmp_path: Path) -> None:
    line = [*words(tmp_path / "run", write_digits(tmp_path / "digits")), "--lr", "auto", "--set", "model.width=288"]
    line = [sys.executable, "-m", "ditkit", *[word for word in line if word != "--quiet"]]
    with (tmp_path / "log").open("wb") as log:
        child = subprocess.Popen(line, stderr=log)
    limit = Limit(120)
    while not (tmp_path / "run/run.lock").exists() and not limit.is_over():
        time.sleep(0.05)
    time.sleep(2)
    child.send_signal(signal.SIGTERM)
    assert child.wait(scaled(30)) == 143
    assert "stopped before the learning rate was known" in (tmp_path / "log").read_text(encoding="utf-8")
    assert not (tmp_path / "run/lr-find.json").exists()


def test_ctrl_c_while_the_program_is_imported_prints_one_line(tmp_path: Path) -> None:
    blocked = "import sys, _thread; sys.modules['typer'] = None\nclass Gate:\n"
    blocked += "    def find_spec(self, name, path=None, target=None):\n"
    blocked += "        if name == 'ditkit.cli.app': raise KeyboardInterrupt\n"
    blocked += "sys.meta_path.insert(0, Gate())\nfrom ditkit.__main__ import main\nsys.exit(main())"
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.faults
def test_ctrl_c_at_any_import_ends_a_command_with_one_line(tmp_path: Path, long_mode: bool) -> None:
    words = ["sample", "--model", "mnist", "--labels", "3", "--steps", "1", "--device", "cpu", "--quiet"]
    program = [sys.executable, str(Path(__file__).with_name("interrupts.py")), "1" if long_mode else "11", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    first, *wrong = done.stdout.splitlines()
    count, _, code = first.partition(" imports, exit ")
    assert (code, wrong) == ("0", []) and int(count) > 1000, done.stdout + done.stderr


def test_ctrl_c_that_a_library_swallows_while_torch_loads_still_ends_the_command(monkeypatch, capsys) -> None:
    def load(*_, **__) -> None:
        with contextlib.suppress(BaseException):  # as mpmath does, when it looks for gmpy2
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)

    def find_weights(*_, **__) -> None:
        with console.loading_torch():
            load()
        pytest.fail("it goes on")

    monkeypatch.setattr("ditkit.sampling.request.find_weights", find_weights)
    assert main(["sample"]) == 130 and capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_lr_auto_leaves_a_run_alone_that_another_process_trains(tiny, tmp_path, capsys):
    config = tiny(train={"steps": 3})
    run(config, tmp_path / "runs/r", stop_after=1)
    folder = RunFolder(tmp_path / "runs/r")
    before = folder.config_file.read_bytes()
    ready, go = os.pipe()
    gate, opened = os.pipe()

    def hold() -> int:
        with lock(folder):
            os.write(go, b"x")
            os.read(gate, 1)
        return 0

    child = fork(hold, tmp_path / "log")
    os.read(ready, 1)
    for path in folder.checkpoints.iterdir():  # a run that has saved nothing yet
        path.rename(tmp_path / path.name)
    code = main(["train", str(folder.path), "--lr", "auto", "--threads", "1", "--runs-dir", str(tmp_path / "runs")])
    os.write(opened, b"x")
    os.waitpid(child, 0)
    assert code == BusyError.exit_code and "is in use by pid" in capsys.readouterr().err
    assert folder.config_file.read_bytes() == before and not (folder.path / "lr-find.json").exists()


def test_a_grid_that_cannot_be_drawn_is_an_incident_and_not_the_end_of_a_run(tiny, tmp_path, monkeypatch):
    run(tiny(), tmp_path / "straight")

    def fail(*_, **__) -> None:
        raise ImportError("No module named 'something'\nand more")

    monkeypatch.setattr("ditkit.training.previews._draw_grid", fail)
    listener = run(tiny(), tmp_path / "run")
    weights = {"ema.safetensors", "model.safetensors", "optimizer.safetensors", "metrics.jsonl"}
    ends = [digest(tmp_path / name) for name in ("straight", "run")]
    assert {name: ends[0][name] for name in weights} == {name: ends[1][name] for name in weights}
    text = "drawing samples failed: No module named 'something'; training goes on without"
    assert [event.text for event in listener.of(Warned)] == [text] * 2
    rows = read_rows(tmp_path / "run/incidents.jsonl")
    assert rows == [{"step": 6, "what": text}, {"step": 12, "what": text}]


def test_a_sampler_that_cannot_be_imported_is_reported_before_the_first_step(tiny, tmp_path, monkeypatch):
    def fail(*_, **__) -> None:
        raise MachineError("diffusers cannot be imported", "install it again")

    monkeypatch.setattr("ditkit.estimation.preflight.open_scheduler", fail)
    with pytest.raises(MachineError, match="diffusers cannot be imported"):
        run(tiny(), tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()
