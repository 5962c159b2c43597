"""Results are tables on a terminal, and plain lines or Markdown where they are piped."""

from __future__ import annotations

import io
import sys

import pytest

from ditkit.cli import app, tables
from ditkit.io.text import markdown

SWEEP = markdown(["sampler", "steps", "FID"], [["dpmpp", "5", "12.25"], ["ddim", "100", "**3.5**"], ["", "20", "4"]])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(lines: list[str], monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> list[str]:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    tables.show(lines)
    return [line.rstrip() for line in terminal.getvalue().splitlines() if line.strip()]


def test_piped_lines_stay_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [*SWEEP, "a  b", "", "picture: x.png"]
    tables.show(lines)
    assert capsys.readouterr().out.splitlines() == lines


def test_on_a_terminal_numbers_are_aligned_to_the_right_and_the_best_is_bold(monkeypatch) -> None:
    lines = shown([*SWEEP, "picture: x.png"], monkeypatch)
    assert not any("|" in line or "**" in line for line in lines)
    bare = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in lines]
    ends = {line.rindex(number) + len(number) for line, number in zip(bare[2:5], ("12.25", "3.5", "4"), strict=True)}
    assert len(ends) == 1
    assert "\x1b[1m3.5\x1b[0m" in lines[3] or "\x1b[1m  3.5\x1b[0m" in lines[3]
    assert lines[-1] == "picture: x.png"


def test_columns_wrap_inside_their_own_column(monkeypatch) -> None:
    lines = shown(["  cat  a word and another word", "  horse  short"], monkeypatch, columns=24)
    assert lines == ["  cat    a word and", "         another word", "  horse  short"]


def test_a_line_with_two_spaces_in_a_path_is_no_table(monkeypatch) -> None:
    assert shown(["picture: my  pictures/x.png"], monkeypatch) == ["picture: my  pictures/x.png"]


def test_the_list_of_samplers_on_a_terminal_has_the_words_of_the_piped_one(monkeypatch, capsys) -> None:
    assert app.main(["list", "samplers"]) == 0
    piped = capsys.readouterr().out.split()
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    assert app.main(["list", "samplers"]) == 0
    assert terminal.getvalue().split() == piped
