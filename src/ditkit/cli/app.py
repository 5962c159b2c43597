"""`ditkit`: the commands in the order of work, and the one place where errors become words and exit codes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import MachineError, UsageError, unknown
from . import console, data, doctor, estimate, lr_find, make_gif, plot_loss, sample, show, streams, train
from . import list_ as listing
from .options import OTHER, Debug
from .words import spread

COMMANDS = {  # in the order of work; one with COMMANDS of its own is a group of them
    "train": train,
    "estimate": estimate,
    "sample": sample,
    "lr-find": lr_find,
    "plot-loss": plot_loss,
    "make-gif": make_gif,
    "data": data,
    "show": show,
    "list": listing,
    "doctor": doctor,
}


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


class Group(TyperGroup):
    """`ditkit` itself, and a command that has commands; a mistyped one gets the nearest named."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown("command", args[0], self.commands)
        return super().resolve_command(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        return _tidy(super().get_params(ctx))


def _check_words(args: Sequence[str], parameters: Sequence[Any]) -> None:
    """Refuse what Click would take for a value: an empty word (an unset variable), and the next option's name."""
    names = {name for parameter in parameters for name in parameter.opts if name.startswith("-")}
    switches = {name for parameter in parameters if getattr(parameter, "is_flag", False) for name in parameter.opts}
    for before, word in zip(["", *args], args, strict=False):
        option, equals, value = word.partition("=")
        given, option = (value, option) if equals and option in names else (word, before)
        if not given.strip():
            where = f"{option}: " if option in names else ""
            raise UsageError(f"{where}an empty word means nothing", "fill it in, or leave it out")
        if before in names - switches and (word in names or word == "--"):
            raise UsageError(f"{before} requires an argument", f"{word} is not one; put a value between them")
        if word == "--":
            break


def _unwrapped(text: str | None) -> str:
    """A docstring with one line a paragraph: the terminal breaks lines where it is wide."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _tidy(parameters: list[Any]) -> list[Any]:
    """Switches show no type, and what Typer adds goes to the last panel."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        if set(parameter.opts) & {"--help", "--install-completion", "--show-completion"}:
            parameter.rich_help_panel = OTHER
    return parameters


def command() -> TyperGroup:
    """The whole command line, ready to be invoked."""
    app = typer.Typer(cls=Group, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback(
        invoke_without_command=True, epilog="Begin with [bold]ditkit train mnist[/], then [bold]ditkit sample[/]."
    )(_ditkit)
    _add(app, COMMANDS)
    built = typer.main.get_command(app)
    assert isinstance(built, TyperGroup)
    return _ordered(built, COMMANDS)


def _add(app: typer.Typer, modules: Mapping[str, ModuleType]) -> None:
    """Each module as a command, or as a group of the commands that it has."""
    for name, module in modules.items():
        if nested := getattr(module, "COMMANDS", None):
            group = typer.Typer(cls=Group, invoke_without_command=True, callback=_group)
            _add(group, nested)
            app.add_typer(group, name=name, help=_unwrapped(module.__doc__), epilog=module.EXAMPLES)
        else:
            app.command(name, cls=Command, help=_unwrapped(module.run.__doc__), epilog=module.EXAMPLES)(module.run)


def _ordered(group: TyperGroup, modules: Mapping[str, ModuleType]) -> TyperGroup:
    """Typer puts groups last; people look for them where they belong."""
    group.commands = {name: group.commands[name] for name in modules}
    return group


def _group(ctx: typer.Context, debug: Debug = False) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), nl=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code. Nothing escapes but what ends Python itself."""
    if arguments is None:
        streams.open_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    streams.spell_everything()
    stdout = sys.stdout
    try:
        code = command().main(given, prog_name="ditkit", standalone_mode=False)
        stdout.flush()
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        console.say("interrupted")
        return 130
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):  # Click ends so when nobody reads its help
            raise
        return streams.unheard(stdout)
    except (BrokenPipeError, streams.Unheard):
        return streams.unheard(stdout)
    except Exception as error:
        streams.flush(stdout)
        return console.report(error, command=_spoken(given), debug=console.is_debug(given))


def _spoken(given: Sequence[str]) -> str:
    """The command that was meant, with the group that it is in."""
    spoken, known = ["ditkit"], COMMANDS
    for word in (word for word in given if not word.startswith("-")):
        if word not in known:
            break
        spoken.append(word)
        known = getattr(known[word], "COMMANDS", {})
    return " ".join(spoken)


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
