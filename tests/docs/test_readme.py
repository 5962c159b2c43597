"""Every command of the README runs: here, shortened and on small data; the packaging commands in .ci/run."""

from __future__ import annotations

import pytest
from commands import TOP, blocks, carry_out, commands, explain_itself, here  # noqa: F401

COMMANDS = [one for kind, content in blocks(TOP / "README.md") if not kind for one in commands(content)]
EXTRAS = ("--format onnx", "--backend jax", "jax_sampling")  # need packages that the tests do without
PLAIN = [command for command in COMMANDS if not any(extra in command for extra in EXTRAS)]
RUN_BY_CI = ("pip install", "python -m pytest", "bash .ci/run", "python examples/")  # examples: test_examples.py


def is_benchmark(command: str) -> bool:
    return command.startswith("python benchmarks/")


def test_the_readme_has_its_commands():
    assert {"train", "sample", "lr-find", "plot-loss", "make-gif", "show", "list"} <= {
        words[1] for words in map(str.split, COMMANDS) if words[0] == "ditkit"
    }


def test_every_command_is_of_a_kind_that_is_run():
    kinds = [
        command for command in COMMANDS if not command.startswith(("ditkit ", *RUN_BY_CI)) and not is_benchmark(command)
    ]
    assert kinds == []


@pytest.mark.docs
def test_the_commands_run_one_after_the_other(here, capfd):  # noqa: F811
    for command in (command for command in PLAIN if command.startswith("ditkit ")):
        carry_out(command, capfd)


@pytest.mark.docs
def test_benchmarks_of_the_readme_explain_themselves(monkeypatch, capsys):
    for command in filter(is_benchmark, PLAIN):
        explain_itself(command, monkeypatch, capsys)
