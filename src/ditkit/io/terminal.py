"""The terminal: streams that may end before the work does, a rich console on stderr, and lines for people."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..runtime import launch
from .text import visible

if TYPE_CHECKING:
    from rich.console import Console


class LastingStderr:
    """stderr that may go away, with the terminal or the program it is piped into: the work goes on in silence."""

    def __init__(self, file: Any):
        self._file = file

    def write(self, text: str) -> int:
        try:
            return self._file.write(text)
        except (OSError, ValueError):
            silence(self._file)
            return len(text)

    def flush(self) -> None:
        try:
            self._file.flush()
        except (OSError, ValueError):
            silence(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def silence(file: Any) -> None:
    """Let a stream that nobody reads lead nowhere, so that Python does not complain when it flushes at exit."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


def open_streams() -> None:
    """Open what was closed before ditkit began: its number would go to a checkpoint, and prints would land in that."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # a file that is opened gets the lowest number that is free: the closed one's
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123


def accept_all_letters() -> None:
    """Names and labels that the terminal cannot print must not end a command; paths stay the bytes that they are.

    Into files and programs Windows would write letters of the old code pages, which have no others.
    """
    chosen = "PYTHONIOENCODING" in os.environ  # by the user
    for stream in (sys.stdout, sys.stderr) if os.name == "nt" and not chosen else ():
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8")
    if isinstance(sys.stdout, io.TextIOWrapper):
        if codecs.lookup(sys.stdout.encoding).name in ("utf-8", "ascii"):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        else:
            sys.stdout.reconfigure(errors="backslashreplace")


def nobody_reads(error: BaseException) -> bool:
    """Whether an error of writing to a pipe says that its reader has ended: on Windows by the number for nonsense."""
    number = getattr(error, "errno", None)
    return isinstance(error, BrokenPipeError) or (
        os.name == "nt" and isinstance(error, OSError) and number == errno.EINVAL and error.filename is None
    )


def flush(stdout: Any) -> None:
    """Send what was printed; if that fails, nothing more, so that Python does not try again at exit."""
    try:
        stdout.flush()
    except (OSError, ValueError):
        silence(stdout)


def stderr() -> Console:
    """A rich console on stderr that neither wraps plain lines nor colours numbers."""
    from rich.console import Console

    file: Any = LastingStderr(sys.stderr)
    sized = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "LINES") or (value.isascii() and value.isdigit() and len(value) < 6)
    }
    return Console(file=file, stderr=True, highlight=False, soft_wrap=True, _environ=sized)


def draws_bars(console: Console) -> bool:
    """Whether a bar can move on it: a terminal, or a notebook with ipywidgets."""
    return find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal


def say(text: str, *, quiet: bool = False) -> None:
    """One line for people, on stderr; of several processes, the first one's."""
    if not quiet and launch.is_main():
        stderr().print(visible(text), markup=False)


@contextmanager
def saying_interrupted() -> Iterator[None]:
    """Ctrl-C inside is said in one line, and only once where this is nested. Typer ends then without a word."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not stop.args:
            say("interrupted")
        raise KeyboardInterrupt("said") from None
