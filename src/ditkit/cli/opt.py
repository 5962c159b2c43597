"""What commands take: each option declared once, as a field of a group, with all there is to say about it.

    @dataclass(frozen=True, kw_only=True)
    class Plot:
        '''Plot.'''                                    # the panel in --help: the docstring up to its first : or .
        runs: list[str] | None = opt("[RUN]...", "Runs by name or folder.")       # no flag: an argument
        log: bool = opt("--log", "A logarithmic loss axis.")                      # a switch
        steps: str | None = opt("--steps N", "Sampling steps.", sets="sample.steps")

    @examples("ditkit plot-loss", "ditkit plot-loss mnist mnist-2 --log")
    def run(plot: Plot, output: Annotated[Output, only("out force runs_dir quiet", out=opt(…))]) -> None:
        '''The help text.'''

A command gets its groups filled in. `only` takes some options of a shared group, in that order, perhaps with another
text but with the same setting; the others keep their defaults. `changes(group, …)` is {setting: value} of the options
that were given; an error of such a setting is reported in the words of its flag. --debug comes by itself.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from ..errors import UsageError

OTHER = "Other"  # panel of what every command has

Run = TypeVar("Run", bound=Callable[..., None])


@dataclass(frozen=True, kw_only=True)
class Option:
    """All about one option, or one argument, but for its type and its default."""

    flag: str | None
    metavar: str | None
    help: str
    panel: str | None = None  # None: the group's
    shown: str | bool = True  # in place of the default
    complete: Callable[..., Any] | None = None
    sets: str | tuple[str, ...] | None = None  # setting, or one setting for each value
    unless: str | None = None  # the value that sets nothing
    read: Callable[[Any], Any] | None = None  # checks the value, or makes another of it
    limits: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Only:
    """Which options of a group a command has, in their order, and those that are another here."""

    names: tuple[str, ...]
    replaced: dict[str, Any]


def opt(form: str, text: str, *, default: Any = None, **about: Any) -> Any:
    """A field of a group: `opt("--steps N", "Sampling steps.")`.

    Args:
        form: the flag with its metavar; a switch has none, an argument is a metavar alone.
        text: the help.
        default: its value where it is not given; False for a switch.
        about: the other fields of `Option`; what is none of them goes to Typer (min, max).
    """
    flag, _, metavar = form.partition(" ") if form.startswith("--") else (None, "", form)
    own = {name: about.pop(name) for name in list(about) if name in Option.__dataclass_fields__}
    option = Option(flag=flag, metavar=metavar or None, help=text, limits=about, **own)
    is_switch = flag is not None and not metavar
    return dataclasses.field(default=False if is_switch else default, metadata={"option": option})


def only(names: str, **replaced: Any) -> Only:
    """For Annotated: the options of a group that a command has, in this order; some perhaps with another `opt`."""
    return Only(tuple(names.split()), replaced)


def examples(*lines: str) -> Callable[[Run], Run]:
    """The end of a command's --help."""

    def decorated(run: Run) -> Run:
        run.__dict__["examples"] = "\n".join(("Examples:\n", *lines))
        return run

    return decorated


def changes(*groups: Any) -> dict[str, Any]:
    """{setting: value} of the options that were given and set something."""
    settings: dict[str, Any] = {}
    for option, value in _given(groups):
        if value == option.unless:
            continue
        if isinstance(option.sets, tuple):
            settings |= zip(option.sets, value, strict=True)
        elif option.sets:
            settings[option.sets] = value
    return settings


def _given(groups: Any) -> Iterator[tuple[Option, Any]]:
    for group in groups:
        for field in dataclasses.fields(group):
            option, value = field.metadata["option"], getattr(group, field.name)
            if option.sets and value is not None:
                yield option, value


def in_flags(error: UsageError, *groups: Any) -> UsageError:
    """The same error in the words that were typed: `--steps: …` for `train.steps: …`."""
    for option, _ in _given(groups):
        if isinstance(option.sets, str) and error.message.startswith((f"{option.sets}: ", f"{option.sets}.")):
            text = error.message.partition(": ")[2]
            return UsageError(f"{option.flag}: {text}", f"give {option.flag} another value")
    return error


def expanded(run: Callable[..., None]) -> Callable[..., None]:
    """A command as a function that takes every option of its groups, and --debug, as Typer understands it."""
    hints = get_type_hints(run, include_extras=True)
    groups = {name: _group(hint) for name, hint in hints.items() if name != "return"}

    def call(*, debug: bool, **values: Any) -> None:  # debug: main looks for the word itself
        filled = {name: _filled(kind, fields, values) for name, (kind, fields) in groups.items()}
        try:
            run(**filled)
        except UsageError as error:
            raise in_flags(error, *filled.values()) from error.__cause__

    parameters = [each for kind, fields in groups.values() for each in _parameters(kind, fields)]
    parameters.append(inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug))
    call.__dict__["__signature__"] = inspect.Signature(parameters)
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _group(hint: Any) -> tuple[type, dict[str, Any]]:
    """The class of a group, and those of its fields that the command has."""
    kind, choice = get_args(hint) if get_origin(hint) is Annotated else (hint, Only((), {}))
    fields = {field.name: field for field in dataclasses.fields(kind)}
    return kind, {name: choice.replaced.get(name, fields[name]) for name in choice.names or fields}


def _filled(kind: type, fields: dict[str, Any], values: dict[str, Any]) -> Any:
    """A group with the values that were given, each read as its option says."""
    own = {}
    for name, field in fields.items():
        read, value = field.metadata["option"].read, values[name]
        own[name] = read(value) if read and value is not None else value
    return kind(**own)


def _parameters(kind: type, fields: dict[str, Any]) -> Iterator[inspect.Parameter]:
    """The fields of a group, each as a parameter that Typer understands."""
    types = get_type_hints(kind)
    for name, field in fields.items():
        option: Option = field.metadata["option"]
        about: dict[str, Any] = {"metavar": option.metavar, "help": option.help, "show_default": option.shown}
        about |= {"autocompletion": option.complete, **option.limits}
        if option.flag:
            info = typer.Option(option.flag, rich_help_panel=option.panel or _panel(kind, name), **about)
        else:
            info = typer.Argument(**about)
        annotation = Annotated[types[name], info]
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


def _panel(kind: type, name: str) -> str:
    """What the docstring of the class says that declares the option."""
    owner = next(base for base in kind.__mro__ if name in inspect.get_annotations(base))
    return (owner.__doc__ or "").partition(".")[0].partition(":")[0]


Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show tracebacks, as DITKIT_DEBUG=1 does.", rich_help_panel=OTHER),
]
