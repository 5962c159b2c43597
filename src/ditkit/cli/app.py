"""The command line: commands whose modules are imported when they are called, and main()."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import MachineError, UsageError, unknown
from ..io.paths import release_unused
from ..io.terminal import saying_interrupted
from ..runtime import clock
from . import console
from .opt import OTHER, Debug, expanded
from .parsing import spread

# Command: the module whose `run` it is, or module:function. A module with COMMANDS of its own, {name: function} or as
# here, is a group of them.
COMMANDS = {
    "train": "train",
    "estimate": "estimate",
    "sample": "sample",
    "evaluate": "evaluate",
    "sweep": "sweep",
    "lr-find": "lr_find",
    "plot-loss": "inspect:plot_loss",
    "report": "inspect:report",
    "compare": "compare",
    "make-gif": "make_gif",
    "edit": "edit",
    "import": "import_export:import_",
    "export": "import_export:export_",
    "data": "data",
    "hub": "hub",
    "show": "inspect:show",
    "list": "inspect:list_",
    "doctor": "doctor",
}
_FUNCTION = r'^def {}\(.*?\) -> None:\n    """(.*?)"""'
_MODULE = r'"""(.*?)"""'


class Command(TyperCommand):
    """A command whose --labels takes several words: Click knows no variadic options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _check_words(args, self.get_params(ctx))
        takes_labels = any("--labels" in parameter.opts for parameter in self.params)
        return super().parse_args(ctx, spread(args) if takes_labels else args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # not of stdout, which console.data writes to: Click would end in silence
            raise MachineError(
                "another process of this run has ended", "look at its messages, then run again"
            ) from error

    def get_params(self, ctx: Any) -> list[Any]:
        return _tidy(super().get_params(ctx))


class LazyCommand(TyperCommand):
    """Stands for a command whose module is not imported yet: its name and its help."""


class Group(TyperGroup):
    """`ditkit` itself, and a command that has commands; for a mistyped one the nearest are named."""

    entries: Mapping[str, Any]  # as COMMANDS

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown("command", args[0], self.commands)
        self.load([args[0]])
        return super().resolve_command(ctx, args)

    def make_context(self, *words: Any, **how: Any) -> Any:
        with saying_interrupted():
            return super().make_context(*words, **how)

    def invoke(self, ctx: Any) -> Any:
        with saying_interrupted():
            return super().invoke(ctx)

    def load(self, names: Iterable[str]) -> None:
        """Import the modules of some commands."""
        for name in names:
            if isinstance(self.commands.get(name), LazyCommand):
                self.commands[name] = _built(name, self.entries[name])

    def get_params(self, ctx: Any) -> list[Any]:
        return _tidy(super().get_params(ctx))


@functools.cache
def root() -> Group:
    """The whole command line, ready to be invoked; built once a process."""
    app = typer.Typer(cls=Group, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback(
        invoke_without_command=True, epilog="Begin with [bold]ditkit train mnist[/], then [bold]ditkit sample[/]."
    )(_ditkit)
    return _filled(app, COMMANDS)


def opened(group: Group) -> Group:
    """The group, with all its commands and those of the groups in it imported."""
    group.load(list(group.commands))
    for command in group.commands.values():
        if isinstance(command, Group):
            opened(command)
    return group


def module_of(entry: str) -> ModuleType:
    """The module of a command."""
    return import_module(f".{entry.partition(':')[0]}", __package__)


def _built(name: str, entry: Any) -> TyperCommand | Group:
    """A command, or a group whose own commands are not imported yet."""
    app = typer.Typer(cls=Group, rich_markup_mode="rich", pretty_exceptions_enable=False, add_completion=False)
    module = module_of(entry) if isinstance(entry, str) else None
    if module and (nested := _nested(entry)):
        app.callback(invoke_without_command=True, help=_unwrapped(module.__doc__), epilog=module.EXAMPLES)(_group)
        group = _filled(app, nested)
        group.name = name
        return group
    run: Any = getattr(module, entry.partition(":")[2] or "run") if module else entry
    app.command(name, cls=Command, help=_unwrapped(run.__doc__), epilog=run.examples)(expanded(run))
    built = typer.main.get_command(app)
    assert isinstance(built, TyperCommand)
    return built


def _nested(entry: Any) -> Mapping[str, Any]:
    """The commands of a group; of any other command none."""
    return {} if not isinstance(entry, str) or ":" in entry else getattr(module_of(entry), "COMMANDS", {})


def _filled(app: typer.Typer, entries: Mapping[str, Any]) -> Group:
    group = typer.main.get_command(app)
    assert isinstance(group, Group)
    group.entries = entries
    group.commands.update({name: LazyCommand(name, help=_help(entry)) for name, entry in entries.items()})
    return group


def _help(entry: Any) -> str:
    """What the docstring of a command says, or that of a group's module, read without importing it."""
    if not isinstance(entry, str):
        return _unwrapped(entry.__doc__)
    stem, _, function = entry.partition(":")
    text = (Path(__file__).parent / f"{stem}.py").read_text(encoding="utf-8")
    docstring = re.search(_FUNCTION.format(function or "run"), text, re.MULTILINE | re.DOTALL)
    docstring = docstring or re.match(_MODULE, text, re.DOTALL)
    return _unwrapped(docstring[1] if docstring else "")


def _unwrapped(text: str | None) -> str:
    """A docstring with one line a paragraph: the terminal breaks lines where it is wide."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _check_words(args: Sequence[str], parameters: Sequence[Any]) -> None:
    """Refuse what Click would take for a value: an empty word (an unset variable), and the next option's name."""
    names = {name for parameter in parameters for name in parameter.opts if name.startswith("-")}
    switches = {name for parameter in parameters if getattr(parameter, "is_flag", False) for name in parameter.opts}
    for before, word in zip(["", *args], args, strict=False):
        option, equals, value = word.partition("=")
        text, option = (value, option) if equals and option in names else (word, before)
        if not text.strip():
            where = f"{option}: " if option in names else ""
            raise UsageError(f"{where}an empty word means nothing", "fill it in, or leave it out")
        if before in names - switches and (word in names or word == "--"):
            raise UsageError(f"{before} requires an argument", f"{word} is not one; put a value between them")
        if word == "--":
            break


def _tidy(parameters: list[Any]) -> list[Any]:
    """Switches show no type, and what Typer adds goes to the last panel."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        if set(parameter.opts) & {"--help", "--install-completion", "--show-completion"}:
            parameter.rich_help_panel = OTHER
    return parameters


def _group(ctx: typer.Context, debug: Debug = False) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), nl=False)


def _ditkit(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", rich_help_panel=OTHER)] = False,
    debug: Debug = False,
) -> None:
    """Train, sample and judge Diffusion Transformers."""
    if version:
        from .. import __version__

        console.data(f"ditkit {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), nl=False)


def command() -> Group:
    """The whole command line with every command imported."""
    return opened(root())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code. Nothing escapes but what ends Python itself."""
    if arguments is None:
        console.open_streams()
    else:
        clock.start()
    words = list(sys.argv[1:] if arguments is None else arguments)
    console.accept_all_letters()
    stdout = sys.stdout
    try:
        code = root().main(words, prog_name="ditkit", standalone_mode=False)
        stdout.flush()
        return code if isinstance(code, int) else 0
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):  # Click ends so when nobody reads its help
            raise
        return console.reader_gone(stdout)
    except Exception as error:
        if console.is_reader_gone(error, stdout):
            return console.reader_gone(stdout)
        console.flush(stdout)
        return console.report(error, command=_command_named(words), debug=console.is_debug(words))
    finally:
        release_unused()


def _command_named(words: Sequence[str]) -> str:
    """The command in a command line, with the group that it is in: `ditkit data show`."""
    names, entries = ["ditkit"], COMMANDS
    for word in (word for word in words if not word.startswith("-")):
        if word not in entries:
            break
        names.append(word)
        entries = _nested(entries[word])
    return " ".join(names)
