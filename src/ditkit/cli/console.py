"""What is printed: results on stdout; messages, errors, bars and questions on stderr."""

from __future__ import annotations

import codecs
import errno
import io
import logging
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..errors import DitkitError, MachineError, PeerError, UsageError, is_out_of_memory
from ..io.progress import LOADING_TORCH, Progress, Watch
from ..io.text import visible
from ..runtime import launch

if TYPE_CHECKING:
    from rich.console import Console


class ReaderGone(Exception):
    """The program that was reading stdout has ended, as `head` does."""


class LastingStderr:
    """stderr that may go away, with the terminal or the program it is piped into: the work goes on in silence."""

    def __init__(self, file: Any):
        self._file = file

    def write(self, text: str) -> int:
        try:
            return self._file.write(text)
        except (OSError, ValueError):
            _silence(self._file)
            return len(text)

    def flush(self) -> None:
        try:
            self._file.flush()
        except (OSError, ValueError):
            _silence(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _silence(file: Any) -> None:
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
    """Names and labels that the terminal cannot print must not end a command; paths stay the bytes that they are."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if codecs.lookup(sys.stdout.encoding).name in ("utf-8", "ascii"):
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
        else:
            sys.stdout.reconfigure(errors="backslashreplace")


def flush(stdout: Any) -> None:
    """Send what was printed; if that fails, nothing more, so that Python does not try again at exit."""
    try:
        stdout.flush()
    except (OSError, ValueError):
        _silence(stdout)


def reader_gone(stdout: Any) -> int:
    """The exit code of any program whose reader has seen enough; nothing more is sent."""
    sys.stdout = stdout
    _silence(stdout)
    return 128 + 13


INTERNAL = 1  # exit code of a bug
_BETWEEN_LINES = 15.0  # seconds
_LONGEST = 1000  # letters of an error: a mistyped word may be a whole file


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


def say(text: str, *, quiet: bool = False) -> None:
    """One line for people, on stderr; of several processes, the first one's."""
    if not quiet and launch.is_main():
        stderr().print(visible(text), markup=False)


def data(text: str) -> None:
    """Something that a script may want, on stdout."""
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    except BrokenPipeError as error:
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


@contextmanager
def spinner(text: str, *, quiet: bool = False) -> Iterator[None]:
    """A spinner around slow work, where stderr is a terminal."""
    console = stderr()
    if quiet or not console.is_terminal:
        yield
        return
    with console.status(text):
        yield


@contextmanager
def bar(text: str, *, quiet: bool = False) -> Iterator[Callable[[float, float | None], None]]:
    """A bar on stderr where that is a terminal; gives a function that takes (done, of how much)."""
    console = stderr()
    if quiet or not console.is_terminal:
        yield (lambda done, total: None) if quiet else _lines(text)
        return
    from rich.progress import Progress

    with Progress(console=console, refresh_per_second=4, transient=True) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _lines(text: str) -> Callable[[float, float | None], None]:
    """What a bar does where stderr is no terminal: a line now and then, if it takes long."""
    last = time.monotonic()

    def show(done: float, total: float | None) -> None:
        nonlocal last
        if total and time.monotonic() - last >= _BETWEEN_LINES:
            last = time.monotonic()
            say(f"{text}: {done / total:.0%}")

    return show


def watch(*, quiet: bool = False) -> Watch:
    """What library functions show their progress with: work named "reading …" spins, other work has a bar."""

    @contextmanager
    def show(text: str) -> Iterator[Progress]:
        if text.endswith("…"):
            with loading_torch(quiet=quiet) if text == LOADING_TORCH else spinner(text, quiet=quiet):
                yield lambda done, total: None
        else:
            with bar(text, quiet=quiet) as update:
                yield update

    return show


@contextmanager
def loading_torch(*, quiet: bool = False) -> Iterator[None]:
    """Around the first import of torch and what needs it, which takes seconds: shows a spinner."""
    from ..runtime.threads import calm_threads, choose_threads, keep_memory

    if "torch" not in sys.modules and "GOMP_SPINCOUNT" not in os.environ:  # else it is decided
        calm_threads(choose_threads())
    keep_memory()
    with spinner(LOADING_TORCH, quiet=quiet):
        yield


def hush_matplotlib() -> None:
    """Silence matplotlib before its import: it warns where it finds no home for its caches, which changes no plot."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def report(error: BaseException, *, command: str = "ditkit", debug: bool = False) -> int:
    """Print an exception as `error: …` and `hint: …`; returns the exit code. A bug's traceback goes to a file.

    Nothing is printed of what another of the processes that were launched together says.
    """
    if debug:
        LastingStderr(sys.stderr).write(visible("".join(traceback.format_exception(error))))
    message, hint, code = _explain(error, command)
    if isinstance(error, PeerError) or (code != INTERNAL and launch.echoes()):
        return code
    if code == INTERNAL:
        hint = _where_to_look(error)
    _line("error", message, "bold red")
    if hint:
        _line("hint", hint, "bold cyan")
    return code


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


def _explain(error: BaseException, command: str) -> tuple[str, str | None, int]:
    if isinstance(error, DitkitError):
        return error.message, error.hint, error.exit_code
    if hasattr(error, "format_message"):  # the exceptions of Typer's own parser
        return _explain_usage(error, command)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror[:1].lower()}{error.strerror[1:]}"
        if error.errno == errno.ENAMETOOLONG:
            return message, "use a shorter word", UsageError.exit_code
        return message, "check the path, its permissions and the free space", MachineError.exit_code
    if "torchvision" in str(error) and isinstance(error, (RuntimeError, ImportError)):
        hint = "`pip uninstall torchvision`, which ditkit does not need, or install the one made for this torch"
        return "the installed torchvision does not fit the installed torch", hint, MachineError.exit_code
    if isinstance(error, ImportError):
        return f"cannot import {error.name}: {error}", "`ditkit doctor` says what is broken", MachineError.exit_code
    if is_out_of_memory(error):
        return "out of memory", "lower --batch-size, or choose a smaller model", MachineError.exit_code
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"internal error: {text}", None, INTERNAL


def _explain_usage(error: Any, command: str) -> tuple[str, str | None, int]:
    """Typer's usage errors in the style of ours, with the nearest options or the page to read."""
    from ..errors import unknown

    context = getattr(error, "ctx", None)
    hint = f"`{command} --help` explains the options"
    if hasattr(error, "possibilities"):
        options = [name for option in context.command.get_params(context) for name in option.opts] if context else []
        wrong = unknown("option", error.option_name, options)
        return wrong.message, wrong.hint if "did you mean" in str(wrong.hint) else hint, 2
    message = str(error.format_message()).strip().rstrip(".")
    message = re.sub(r"^Invalid value for '(-[^']*)': (.)", lambda match: f"{match[1]}: {match[2].lower()}", message)
    message = re.sub(r"^Option '(-[^']*)' ", r"\1 ", message)
    message = re.sub(r"^Got unexpected extra argument\(s\) \((.*)\)$", r"unexpected: \1", message, flags=re.DOTALL)
    if message.startswith("unexpected: ") and command == "ditkit sample":
        hint = "labels follow --labels: `ditkit sample --labels cat dog`"
    return message[:1].lower() + message[1:], hint, error.exit_code
