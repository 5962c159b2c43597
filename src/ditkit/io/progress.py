"""Progress and consent: how the library reports long work to its caller, and asks before a large download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from ..errors import UsageError

Progress = Callable[[float, float | None], None]  # bytes done, of how many where that is known
Watch = Callable[[str], AbstractContextManager[Progress]]
Ask = Callable[[str], bool]
LOADING_TORCH = "loading torch …"  # takes seconds


def no_progress(text: str) -> AbstractContextManager[Progress]:
    """A `Watch` that shows nothing."""
    return nullcontext(lambda done, total: None)


def _always_yes(text: str) -> bool:
    return True


_watch: ContextVar[Watch] = ContextVar("watch", default=no_progress)
_ask: ContextVar[Ask] = ContextVar("ask", default=_always_yes)


@contextmanager
def reporting_to(watch: Watch | None, ask: Ask = _always_yes) -> Iterator[None]:
    """Within it, `watch` gets a description of each piece of work and its progress; `ask` answers questions."""
    watch_token, ask_token = _watch.set(watch or no_progress), _ask.set(ask)
    try:
        yield
    finally:
        _watch.reset(watch_token)
        _ask.reset(ask_token)


def progress(text: str) -> AbstractContextManager[Progress]:
    """Around long work: announces `text`, and gives the function that takes the progress."""
    return _watch.get()(text)


def notify(text: str) -> bool:
    """Announce something worth knowing; returns whether anybody watches."""
    with progress(text):
        return _watch.get() is not no_progress


def confirm(text: str, by_hand: str) -> None:
    """Ask whether to go on ("download 3 files …"). Raises UsageError when the answer is no."""
    if not _ask.get()(text):
        raise UsageError(f"not done: {text}", f"say yes, or give --yes; or {by_hand}")
