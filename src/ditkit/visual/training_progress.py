"""The progress of a training run: a bar where stderr is a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ..events import Evaluated, Event, Finished, Sampled, Started, Stepped, Validated, Warned
from ..io.progress import reporting_to
from ..io.reading import open_picture
from ..io.terminal import draws_bars, stderr
from ..io.text import format_duration, parameter_count, plural, plus_minus, shell_words, visible
from ..runtime import launch
from .progress import announced

if TYPE_CHECKING:
    from rich.progress import Progress


LINES = 20  # plain lines in a run
BETWEEN_LINES = 10.0  # least seconds between two of them
_SMOOTHING = 0.98


class TrainingProgress:
    """Shows a run's progress: `with TrainingProgress() as progress: ditkit.train(config, folder, progress)`.

    What is downloaded or encoded for the run is shown, too, and in a notebook the sample grids. The bar needs
    ipywidgets there, without which lines stand for it.

    Args:
        name: of the run; its folder's if None.
        quiet: say nothing.
    """

    def __init__(self, name: str | None = None, *, quiet: bool = False):
        self.name, self.quiet = name, quiet or not launch.is_main()
        self.console = stderr()
        self.finished: Finished | None = None
        self.labels: tuple[str, ...] = ()
        self._reports = ExitStack()
        self._bar: Progress | None = None
        self._task: Any = None
        self._loss: float | None = None
        self._validation: float | None = None
        self._first = self._steps = 0
        self._began = self._last_line = time.monotonic()
        self._next_line = 0

    def __enter__(self) -> TrainingProgress:
        self._reports.enter_context(reporting_to(None if self.quiet else announced))
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop_bar()
        self._reports.close()

    def __call__(self, event: Event) -> None:
        """Take one event of the training loop."""
        if isinstance(event, Finished):
            self.finished = event
            self._stop_bar()
        elif isinstance(event, Started):
            self._start(event)
        elif isinstance(event, Stepped):
            self._step(event)
        elif isinstance(event, Validated):
            self._validation = event.loss
        elif isinstance(event, Evaluated):
            self.note(f"step {event.step}: KID {plus_minus(event.kid, event.error)} ({event.of})")
        elif isinstance(event, Sampled):
            self._show(event)
        elif isinstance(event, Warned):
            self.note(f"warning: {event.text}")

    def _stop_bar(self) -> None:
        if self._bar:
            self._bar.stop()

    def note(self, text: str) -> None:
        """A line between the others."""
        if not self.quiet:
            self.console.print(visible(text), markup=False)

    def _start(self, event: Started) -> None:
        self._first, self._steps, self.labels = event.step, event.steps, event.labels
        self._began, self._next_line = time.monotonic(), event.step
        self._last_line = self._began - BETWEEN_LINES
        labels = plural(len(event.labels), "label") if event.labels else "no labels"
        name = self.name or event.folder.name
        verb = f"continuing at step {event.step} of" if event.step else "training"
        self.note(
            f"{verb} {name}: {parameter_count(event.parameters)} on {event.device} ({event.dtype}), "
            f"{plural(event.images, 'image')}, {labels}, in {event.folder}"
        )
        if event.kernels:
            self.note(f"{'kernels in C' if ', kernels' in event.device else 'no kernels in C'}: {event.kernels}")
        if draws_bars(self.console) and not self.quiet:
            self._bar = _bar(self.console)
            self._task = self._bar.add_task("", total=event.steps, completed=event.step, numbers="")
            self._bar.start()

    def _step(self, event: Stepped) -> None:
        previous = event.loss if self._loss is None else self._loss
        self._loss = _SMOOTHING * previous + (1 - _SMOOTHING) * event.loss
        if self._bar:
            self._bar.update(self._task, completed=event.step, numbers=self._numbers(event))
        elif not self.quiet and self._is_due(event.step):
            done, now = event.step - self._first, time.monotonic()
            left = (self._steps - event.step) * (now - self._began) / max(done, 1)
            width = len(str(self._steps))
            time_left = f"  {format_duration(left)} left" if event.step < self._steps else ""
            self.note(f"step {event.step:>{width}}/{self._steps}  {self._numbers(event)}{time_left}")
            self._last_line = now

    def _is_due(self, step: int) -> bool:
        """About twenty lines a run and at most one in ten seconds; the first and the last step always have one."""
        if step >= self._steps:
            return True
        if step < self._next_line or time.monotonic() - self._last_line < BETWEEN_LINES:
            return False
        every = max(1, (self._steps - self._first) // LINES)
        self._next_line = step + every - (step - self._first) % every
        return True

    def _numbers(self, event: Stepped) -> str:
        validation = f"  val {self._validation:.4f}" if self._validation is not None else ""
        speed = f"{event.images_per_second:,.0f}" if event.images_per_second >= 10 else f"{event.images_per_second:.1f}"
        used = f" ({event.utilisation:.0%} of peak)" if event.utilisation is not None else ""
        return f"loss {self._loss:.4f}{validation}  {speed} images/s{used}  lr {event.lr:.2e}"

    def _show(self, event: Sampled) -> None:
        if self.quiet:
            return
        if self.console.is_jupyter:
            from IPython.display import Image, display

            self.note(f"step {event.step}:")
            display(Image(filename=str(event.path)))
        elif self.console.is_terminal and self.console.color_system == "truecolor":
            from ..visual.grid import half_blocks

            grid = open_picture(event.path)
            rows = max(10, self.console.height - 6)
            columns = min(self.console.width, 100, 2 * rows * grid.width // grid.height)
            blocks = half_blocks(grid, max(columns, 10))
            self.note(f"step {event.step}: {event.path}")
            self.console.print(blocks)
        else:
            self.note(f"step {event.step}: samples in {event.path}")


def next_steps(finished: Finished, labels: Sequence[str], *, elsewhere: bool) -> list[str]:
    """Lines to print after a run has ended, with the next command; `elsewhere` if --runs-dir was given."""
    if finished.reason != "done":
        why = "out of time" if finished.reason == "time" else "stopped"
        again = f"ditkit train {shell_words(str(finished.folder))}"
        if not finished.step:
            return [f"{why} before the first step; begin again with `{again}`"]
        return [f"{why} at step {finished.step} of {finished.steps}, all saved; continue with `{again}`"]
    words = ["ditkit", "sample"]
    if labels and not any(label.startswith("-") for label in labels):
        words += ["--labels", *labels[:10]]
    if elsewhere:
        words += ["--model", str(finished.folder)]
    took = format_duration(finished.seconds)
    return [f"done: {plural(finished.steps, 'step')} in {took}, in {finished.folder}", f"next: `{shell_words(*words)}`"]


def _bar(terminal: Any) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (MofNCompleteColumn(), BarColumn(None), TextColumn("{task.fields[numbers]}"), TimeRemainingColumn())
    # few refreshes: the thread that draws takes time from the threads that train
    return Progress(*columns, console=terminal, refresh_per_second=4, expand=True)
