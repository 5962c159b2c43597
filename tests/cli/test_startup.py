"""What a command line costs before it works: no torch for help, completion, or any mistake of the user's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import FLAGS, write_run
from fresh_process import run_lines
from test_usage_errors import WRONG

HEAVY = {"torch", "diffusers", "accelerate", "matplotlib", "safetensors", "jax"}
NOT_FOR_HELP = HEAVY | {"numpy", "PIL", "pydantic", "ditkit.config", "ditkit.registry"}
TYPERS_OWN = {"pydantic"}  # newer versions of Typer read words with it

# Runs command lines one after the other in one process; says for each its exit code and which modules it has loaded.


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    assert run_lines(["--help"], NOT_FOR_HELP, tmp_path) == [(0, [])]
    lines = ["", "--version", *(f"{command} --help" for command in FLAGS)]
    assert run_lines(lines, NOT_FOR_HELP - TYPERS_OWN, tmp_path) == [(0, [])] * len(lines)


def test_completion_loads_no_settings_and_nothing_heavy(tmp_path: Path) -> None:
    write_run(tmp_path / "runs")
    done = run_lines(
        ["train"],
        NOT_FOR_HELP - TYPERS_OWN - {"ditkit.registry"},
        tmp_path,
        _DITKIT_COMPLETE="complete_bash",
        COMP_WORDS="ditkit train m",
        COMP_CWORD="2",
    )
    assert done == [(0, [])]


def test_every_mistake_is_found_before_torch_loads(tmp_path: Path) -> None:
    write_run(tmp_path / "runs")
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 20)
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/grid.png").write_bytes(b"")
    mistakes = {line: 2 for line, *_ in WRONG}
    words = ("sample --runs-dir none", "sample --out taken", "plot-loss --runs-dir none", "make-gif --runs-dir none")
    mistakes |= dict.fromkeys((*words, "make-gif denoise --runs-dir none"), 2)
    mistakes |= dict.fromkeys(("train folder", "train empty"), 3)
    mistakes |= {"sample --model damaged.safetensors": 4, "train celeba": 6, "data show celeba": 6, "train hf://a/b": 6}
    mistakes |= {"train runs/pets --seed 7": 2, "train runs/pets --set model.width=12": 2, "train hf://": 2}
    cache = {"DITKIT_CACHE": str(tmp_path / "cache"), "DITKIT_OFFLINE": "1"}
    done = dict(zip(mistakes, run_lines(list(mistakes), HEAVY, tmp_path, **cache), strict=True))
    assert {line: loaded for line, (_, loaded) in done.items() if loaded} == {}
    assert {line: code for line, (code, _) in done.items()} == mistakes


def test_what_needs_no_network_runs_without_torch(tmp_path: Path) -> None:
    write_run(tmp_path / "runs")
    lines = ["list", "show mnist", "show", "plot-loss --terminal", "data show mnist --limit 20"]
    lines += ["data list", "data remove --all --yes"]
    assert run_lines(lines, HEAVY, tmp_path, DITKIT_CACHE=str(tmp_path / "cache")) == [(0, [])] * len(lines)


def self_times(arguments: list[str], caches: Path) -> dict[str, int]:
    """Microseconds that each module took by itself, without the interpreter's own start, bytecode cached."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(caches)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        check=True,
    )
    rows = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", done.stderr, re.MULTILINE)
    names = [name for _, name in rows]
    return {name: int(microseconds) for microseconds, name in rows[names.index("site") + 1 :]}


def test_help_imports_at_most_three_times_what_typer_does(tmp_path: Path) -> None:
    of_typer = set(self_times(["-c", "import typer"], tmp_path))
    arguments = ["-c", "import sys; from ditkit.cli.app import main; sys.exit(main(['--help']))"]
    self_times(arguments, tmp_path)  # fills the cache
    rounds = [self_times(arguments, tmp_path) for _ in range(5)]
    # the least of each module's times: on a busy machine any of them may be interrupted
    times = {name: min(one[name] for one in rounds) for name in rounds[0]}
    # typer's own time counts every module that it needs, whoever asked for it first in this process
    ratio = sum(times.values()) / sum(time for name, time in times.items() if name in of_typer)
    assert ratio <= 3.3, ratio  # 3 with the newest Typer; the oldest imports less


@pytest.mark.parametrize("words", [["-m", "ditkit", "--version"]])
def test_python_m_ditkit_is_the_same_command(words: list[str]) -> None:
    done = subprocess.run([sys.executable, *words], capture_output=True, encoding="utf-8", check=True)
    assert re.fullmatch(r"ditkit \d+\.\d+\.\d+\n", done.stdout)
