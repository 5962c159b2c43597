"""One library for all tests of kernels, compiled once, and compilers made of a few lines of shell."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ditkit.kernels import compiler, library

# Finds what follows -o; $0 is the script.
_SCRIPT = """#!/bin/sh
echo "$0 $*" >> '{log}'
[ "$1" = --version ] && {{ echo a compiler; exit; }}
while [ "$1" != -o ]; do shift; done
{does}
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels' library, by this machine's compiler."""
    if os.name == "nt":
        pytest.skip("there are no kernels on Windows")
    commands = compiler.compilers()
    if not commands:
        pytest.skip("no C compiler")
    path = tmp_path_factory.mktemp("built") / f"built{compiler.ENDING}"
    path.write_bytes(compiler.compiled(commands[0]))
    return path


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The library is looked for as in a new process, in this test and whenever it calls `fresh()`; no CC is set."""
    monkeypatch.delenv("CC", raising=False)

    def forget() -> None:
        monkeypatch.setattr(library, "_library", functools.lru_cache(library._library.__wrapped__))

    forget()
    return forget


class Compilers:
    """A folder of compilers that is the whole PATH, and the log of how they were called."""

    def __init__(self, folder: Path, real: Path):
        self.folder, self.log, self.real = folder, folder.with_name("called.log"), real
        folder.mkdir()

    def add(self, name: str, does: str = "/bin/cp '{built}' \"$2\"") -> Path:
        """A compiler that does what some shell says, $2 being its output; by default it makes the real library."""
        path = self.folder / name
        path.write_text(_SCRIPT.format(log=self.log, does=does.format(built=self.real)), encoding="utf-8")
        path.chmod(0o755)
        return path

    def compiled(self) -> int:
        """How many times one was asked to compile."""
        return self.log.read_text(encoding="utf-8").count(" -o ") if self.log.exists() else 0


@pytest.fixture
def compilers(tmp_path: Path, built: Path, fresh: object, monkeypatch: pytest.MonkeyPatch) -> Compilers:
    """None yet; the PATH has nothing else."""
    made = Compilers(tmp_path / "bïn with spaces", built)
    monkeypatch.setenv("PATH", str(made.folder))
    return made
