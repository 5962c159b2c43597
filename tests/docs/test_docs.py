"""Every block of the documentation runs, page after page as a reader would; its title says why one does not."""

from __future__ import annotations

import re
import shlex

import pytest
from commands import TOP, blocks, carry_out, commands, explain_itself, here  # noqa: F401

DOCS = TOP / "docs"
NAVIGATION = (TOP / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
PAGES = re.findall(r"([\w/-]+\.md)$", NAVIGATION, flags=re.MULTILINE)
BLOCKS = [(page, kind, content) for page in PAGES for kind, content in blocks(DOCS / page)]

NOT_RUN = [one for _, kind, content in BLOCKS if "title" in kind for one in commands(content)]


def test_every_page_is_in_the_navigation():
    assert sorted(PAGES) == sorted(str(path.relative_to(DOCS).as_posix()) for path in DOCS.rglob("*.md"))


def test_every_block_is_of_a_kind_that_is_run_or_says_why_it_is_not():
    kinds = {kind for _, kind, _ in BLOCKS}
    assert all(re.fullmatch(r'python|text|bash( title="[^"]{10,}")?', kind) for kind in kinds), kinds


@pytest.mark.docs
def test_the_blocks_run_one_after_the_other(here, capfd):  # noqa: F811
    names: dict[str, dict] = {page: {} for page in PAGES}  # that a page's Python has defined
    for page, kind, content in BLOCKS:
        if kind == "python":
            exec(compile(content, page, "exec"), names[page])
        elif kind == "bash":
            for command in commands(content):
                carry_out(command, capfd)


@pytest.mark.docs
@pytest.mark.parametrize("command", NOT_RUN)
def test_what_is_not_run_is_spelled_as_the_command_line_is(command, monkeypatch, capsys):
    from ditkit.cli import app

    words = shlex.split(command)
    if words[:1] == ["python"] and words[1].startswith("benchmarks/"):
        explain_itself(command, monkeypatch, capsys)
    if "ditkit" not in words:
        return
    found = app.command()
    rest = words[words.index("ditkit") + 1 :]
    while rest and rest[0] in getattr(found, "commands", {}):
        found, rest = found.commands[rest[0]], rest[1:]
    known = {name for parameter in found.params for name in parameter.opts}
    assert not hasattr(found, "commands") and {word for word in rest if word.startswith("--")} <= known
