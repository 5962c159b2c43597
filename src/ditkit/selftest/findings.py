"""What trying something has found: it holds, it differs, or it was not tried, and what to do then."""

from __future__ import annotations

import getpass
import platform
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..io.text import flat
from ..runtime.failures import explained

HOLDS, DIFFERS, NOT_TRIED = "holds", "differs", "not tried"
_PATH = re.compile(r"""(?<![\w/.])(?:~|[A-Za-z]:(?=[\\/]))?[\\/][^\s'",:;()]+""")
_NAME_WIDTH, _LONGEST = 18, 300  # letters: the column of names; a text


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a report."""

    name: str  # of what was tried
    verdict: str  # HOLDS, DIFFERS or NOT_TRIED
    text: str  # the figures, by how much it differs, or why it was not tried
    hint: str | None = None  # what to do


class NotTried(Exception):
    """Raised by something to try that this machine cannot do, or need not."""

    def __init__(self, why: str, hint: str | None = None):
        super().__init__(why)
        self.why, self.hint = why, hint


class Differs(Exception):
    """Raised where something is not as it should be."""

    def __init__(self, text: str, hint: str | None = None):
        super().__init__(text)
        self.text, self.hint = text, hint


def find(name: str, work: Callable[[], str]) -> Finding:
    """Do the work, which gives the figures of what holds; whatever it raises is a finding, too."""
    try:
        return _finding(name, HOLDS, work())
    except NotTried as reason:
        return _finding(name, NOT_TRIED, reason.why, reason.hint)
    except Differs as difference:
        return _finding(name, DIFFERS, difference.text, difference.hint)
    except Exception as error:  # a library or a driver that is broken can raise anything
        known = explained(error)
        if known is not None:
            return _finding(name, DIFFERS, known.message, known.hint)
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        hint = "report it, with all these lines, as a bug of ditkit or of torch"
        return _finding(name, DIFFERS, f"{type(error).__name__}: {lines[0]}".strip(" :"), hint)


def _finding(name: str, verdict: str, text: str, hint: str | None = None) -> Finding:
    return Finding(name=name, verdict=verdict, text=anonymous(text)[:_LONGEST], hint=hint and anonymous(hint))


def anonymous(text: str) -> str:
    """The text on one line without paths and without the names of the user and of the machine."""
    text = _PATH.sub("<path>", flat(" ".join(text.split())))
    for name in _names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<name>", text)
    return text


def _names() -> Iterator[str]:
    """Names that are nobody's business; those of two letters and `root` tell nothing and may be words."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name
        user = ""
    yield from (name for name in (platform.node(), user) if len(name) > 2 and name not in ("root", "localhost"))


def lines(finding: Finding, width: int = 80) -> Iterator[str]:
    """The finding for people, no line longer than `width`: its name, what was found, and below it what to do."""
    indent = " " * (_NAME_WIDTH + 2)
    begin = f"{finding.name:<{_NAME_WIDTH}}  {finding.verdict}: "
    yield from textwrap.wrap(begin + finding.text, width, subsequent_indent=indent, break_on_hyphens=False)
    if finding.hint:
        yield from textwrap.wrap(f"-> {finding.hint}", width, initial_indent=indent, subsequent_indent=indent + "   ")


def differing(findings: Iterable[Finding]) -> list[str]:
    """The names of what is not as it should be."""
    return [finding.name for finding in findings if finding.verdict == DIFFERS]
