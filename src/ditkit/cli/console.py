"""What is printed: results on stdout; messages, errors, bars and questions on stderr."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

from ..errors import DitkitError, PeerError, UsageError, unknown
from ..io.terminal import LastingStderr, accept_all_letters, flush, nobody_reads, open_streams, say, silence, stderr
from ..io.text import visible
from ..runtime import launch
from ..runtime.failures import explained
from ..visual.progress import bar, loading_torch, spinner
from ..visual.progress import progress_bars as watch

__all__ = ["accept_all_letters", "bar", "flush", "loading_torch", "open_streams", "say", "spinner", "stderr", "watch"]


_LONGEST = 1000  # letters of an error: a mistyped word may be a whole file


class ReaderGone(Exception):
    """The program that was reading stdout has ended, as `head` does."""


def is_reader_gone(error: Exception, stdout: Any) -> bool:
    """Whether an error comes from writing to stdout, which nobody reads any more."""
    if isinstance(error, (ReaderGone, BrokenPipeError)):
        return True
    if not nobody_reads(error):
        return False
    try:  # or it is another error of the same number
        stdout.write("\n")
        stdout.flush()
    except OSError:
        return True
    return False


def reader_gone(stdout: Any) -> int:
    """The exit code of any program whose reader has seen enough; nothing more is sent."""
    sys.stdout = stdout
    silence(stdout)
    return 128 + 13


def data(text: str) -> None:
    """Something that a script may want, on stdout; a terminal gets no control characters of names and labels."""
    text = visible(text) if sys.stdout.isatty() else text
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    except OSError as error:
        if not nobody_reads(error):
            raise
        raise ReaderGone from error


def agreed(question: str, *, yes: bool, about: Sequence[str] = ()) -> bool:
    """Whether the user says yes, here or beforehand with --yes. Raises UsageError where there is nobody to ask.

    The lines `about` it are shown before the question.
    """
    if yes:
        return True
    console = stderr()
    if not (console.is_terminal and sys.stdin.isatty()):
        raise UsageError(f"there is no terminal to ask at: {question}", "say yes with --yes")
    for line in about:
        console.print(visible(line), markup=False)
    console.print(visible(f"{question} [y/N] "), end="", markup=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def hush_matplotlib() -> None:
    """Silence matplotlib before its import: it warns where it finds no home for its caches, which changes no plot."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def report(error: BaseException, *, command: str = "ditkit", debug: bool = False) -> int:
    """Print an exception as `error: …` and `hint: …`; returns the exit code. A bug's traceback goes to a file.

    Nothing is printed of what another of the processes that were launched together says.
    """
    if debug:
        LastingStderr(sys.stderr).write(visible("".join(traceback.format_exception(error))))
    # the exceptions of Typer's own parser have a format_message
    wrong = _usage_error(error, command) if hasattr(error, "format_message") else explained(error)
    if isinstance(wrong, PeerError) or (wrong and launch.echoes()):
        return wrong.exit_code
    if wrong is None:
        name = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        wrong = DitkitError(f"internal error: {name}", _where_to_look(error))
    _line("error", wrong.message, "bold red")
    if wrong.hint:
        _line("hint", wrong.hint, "bold cyan")
    return wrong.exit_code


def _where_to_look(error: BaseException) -> str:
    """Write the traceback of a bug to a file of its own, and say where."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="ditkit-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError:
        return "this is a bug of ditkit; --debug shows the traceback"
    return f"this is a bug of ditkit; the traceback is in {file.name}"


def is_debug(words: list[str]) -> bool:
    """Whether tracebacks are printed: --debug among the words, or DITKIT_DEBUG in the environment."""
    return "--debug" in words or os.environ.get("DITKIT_DEBUG", "") not in ("", "0")


def _line(kind: str, text: str, style: str) -> None:
    from rich.text import Text

    flat = visible(" ".join(text.split()))
    if len(flat) > _LONGEST:
        flat = f"{flat[: _LONGEST // 2]} … {flat[-_LONGEST // 2 :]}"
    stderr().print(Text.assemble((f"{kind}:", style), f" {flat}"))


def _usage_error(error: Any, command: str) -> UsageError:
    """Typer's usage errors in the style of ours, with the nearest options or the page to read."""
    context = getattr(error, "ctx", None)
    hint = f"`{command} --help` explains the options"
    if hasattr(error, "possibilities"):
        options = [name for option in context.command.get_params(context) for name in option.opts] if context else []
        wrong = unknown("option", error.option_name, options)
        return wrong if "did you mean" in str(wrong.hint) else UsageError(wrong.message, hint)
    message = str(error.format_message()).strip().rstrip(".")
    message = re.sub(r"^Invalid value for '(-[^']*)': (.)", lambda match: f"{match[1]}: {match[2].lower()}", message)
    message = re.sub(r"^Option '(-[^']*)' ", r"\1 ", message)
    message = re.sub(r"^Got unexpected extra argument\(s\) \((.*)\)$", r"unexpected: \1", message, flags=re.DOTALL)
    if message.startswith("unexpected: ") and command == "ditkit sample":
        hint = "labels follow --labels: `ditkit sample --labels cat dog`"
    return UsageError(message[:1].lower() + message[1:], hint)
