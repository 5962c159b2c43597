"""Tables of results: by rich where stdout is a terminal, exactly as they were written where it is piped."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from . import console

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_NUMBER = re.compile(r"-?[\d.,]+(e[+-]?\d+)?( ?(%|ms|s|B|kB|MB|GB|M|m\d\ds|h\d\dm))?( ± [\d.,e-]+)?|inf|")
_RULE = re.compile(r"(\| --- )+\|")


def show(lines: Iterable[str]) -> None:
    """Print lines; on a terminal those of Markdown, and columns that two spaces or more separate, become tables.

    There numbers are aligned to the right, and what Markdown writes as **bold** is bold.
    """
    lines = list(lines)
    if not sys.stdout.isatty():
        for line in lines:
            console.data(line)
        return
    from rich.console import Console

    terminal = Console(file=sys.stdout, highlight=False)
    for (is_markdown, width), group in groupby(lines, key=_shape):
        block = list(group)
        if width > 1 and (any(map(_RULE.fullmatch, block)) if is_markdown else len(block) > 1):
            terminal.print(_table(block, is_markdown=is_markdown))
        else:
            for line in block:
                console.data(line)


def columns(texts: Mapping[str, str], indent: str = "") -> Iterator[str]:
    """A line for each name, with its text in a second column."""
    width = max(map(len, texts), default=0)
    for name, text in texts.items():
        yield f"{indent}{name:<{width}}  {text}".rstrip()


def _shape(line: str) -> tuple[bool, int]:
    """Whether a line is one of a Markdown table, and how many columns it has."""
    return line.startswith("| "), len(_cells(line))


def _cells(line: str) -> list[str]:
    if line.startswith("| "):
        return [cell.strip() for cell in line.strip().strip("|").split(" | ")]
    return re.split(r" {2,}", line.strip())


def _table(lines: Sequence[str], *, is_markdown: bool) -> RenderableType:
    from rich import box
    from rich.padding import Padding
    from rich.table import Table

    rows = [_cells(line) for line in lines if not _RULE.fullmatch(line)]
    heads = rows.pop(0) if is_markdown else [""] * len(rows[0])
    table = Table(box=box.SIMPLE_HEAD if is_markdown else None, show_header=is_markdown, padding=(0, 2, 0, 0))
    for column, head in enumerate(heads):
        numbers = all(_NUMBER.fullmatch(row[column].strip("*")) for row in rows)
        table.add_column(_text(head), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    indent = 0 if is_markdown else min(len(line) - len(line.lstrip()) for line in lines)
    return Padding(table, (0, 0, 0, indent)) if indent else table


def _text(cell: str) -> Text:
    from rich.text import Text

    return Text(cell[2:-2], "bold") if cell.startswith("**") and cell.endswith("**") else Text(cell)
