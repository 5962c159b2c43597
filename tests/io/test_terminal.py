"""Streams of Windows: letters of all alphabets into files and pipes, and a reader that has ended."""

from __future__ import annotations

import errno
import io
import os
import sys
import types

import pytest
from platforms import as_windows

from ditkit.cli import app
from ditkit.io import terminal


def piped(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")


def test_windows_writes_all_letters_into_pipes_and_files(monkeypatch):
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    out, err = piped("cp1252"), piped("cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    as_windows(monkeypatch, terminal)
    terminal.accept_all_letters()
    for stream in (out, err):
        print("写真", file=stream, flush=True)
        assert stream.buffer.getvalue() == f"写真{os.linesep}".encode()


def test_an_encoding_that_the_user_chose_stays(monkeypatch):
    out = piped("cp850")
    monkeypatch.setenv("PYTHONIOENCODING", "cp850")
    monkeypatch.setattr(sys, "stdout", out)
    as_windows(monkeypatch, terminal)
    terminal.accept_all_letters()
    assert out.encoding == "cp850"


def test_a_terminal_of_windows_keeps_its_encoding(monkeypatch):
    out = piped("cp1252")
    monkeypatch.setattr(out, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", out)
    as_windows(monkeypatch, terminal)
    terminal.accept_all_letters()
    print("写", end="", flush=True)
    assert out.buffer.getvalue() == rb"\u5199"


class Gone(io.RawIOBase):
    """A pipe of Windows whose reader has ended."""

    def writable(self) -> bool:
        return True

    def write(self, _block) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of closing it, from Python 3.13 on
@pytest.mark.parametrize("line", ["list recipes", "train --help", "show mnist", "--version"])
def test_on_windows_too_a_reader_that_has_seen_enough_is_no_error(line, monkeypatch, capfd):
    as_windows(monkeypatch, terminal)
    out = io.TextIOWrapper(io.BufferedWriter(Gone(), 64), encoding="utf-8", write_through=True)
    monkeypatch.setattr(sys, "stdout", out)
    assert app.main(line.split()) == 141
    assert capfd.readouterr().err == ""


def test_another_nonsense_number_of_windows_is_no_reader_that_ended(monkeypatch, capsys):
    def fail(*_words):
        raise OSError(errno.EINVAL, "Invalid argument")

    as_windows(monkeypatch, terminal)
    monkeypatch.setattr(app, "root", lambda: types.SimpleNamespace(main=lambda *_, **__: fail()))
    assert app.main(["list", "recipes"]) == 6
    assert "invalid argument" in capsys.readouterr().err
