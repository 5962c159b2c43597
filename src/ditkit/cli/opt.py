"""What commands take: each option declared once, as a field of a group, with all that is to be said of it.

    @dataclass(frozen=True, kw_only=True)
    class Plot:
        '''Plot.'''                                    # the panel in --help: the docstring up to its first : or .
        runs: list[str] | None = opt("[RUN]...", "Runs by name or folder.")       # no flag: an argument
        log: bool = opt("--log", "A logarithmic loss axis.", default=False)       # a switch
        steps: str | None = opt("--steps", "N", "Sampling steps.", sets="sample.steps")

    @examples("ditkit plot-loss", "ditkit plot-loss mnist mnist-2 --log")
    def run(plot: Plot, output: Annotated[Output, only("out force runs_dir quiet", out=opt(…))]) -> None:
        '''The help text.'''

A command gets its groups filled in. `only` takes some options of a shared group, in that order, perhaps with another
text; the others keep their defaults. `changes(group, …)` is {setting: value} of the options that were given; an error
of such a setting is reported in the words of its flag. --debug comes by itself.
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


def opt(*words: str, default: Any = None, **about: Any) -> Any:
    """A field of a group: `opt("--steps", "N", "Sampling steps.")`; an argument where no word is a flag.

    Args:
        words: the flag, the metavar and the help; a switch has no metavar.
        default: its value where it is not given.
        about: the other fields of `Option`; what is none of them goes to Typer (min, max).
    """
    *names, text = words
    own = {name: about.pop(name) for name in list(about) if name in Option.__dataclass_fields__}
    option = Option(
        flag=next((name for name in names if name.startswith("--")), None),
        metavar=next((name for name in names if not name.startswith("--")), None),
        help=text,
        limits=about,
        **own,
    )
    return dataclasses.field(default=default, metadata={"option": option})


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
    found: dict[str, Any] = {}
    for option, value in _given(groups):
        if isinstance(option.sets, tuple):
            found |= zip(option.sets, value, strict=True)
        elif option.sets:
            found[option.sets] = value
    return found


def _given(groups: Any) -> Iterator[tuple[Option, Any]]:
    for group in groups:
        for field in dataclasses.fields(group):
            option, value = field.metadata["option"], getattr(group, field.name)
            if option.sets and value is not None and value != option.unless:
                yield option, value


def in_flags(error: UsageError, *groups: Any) -> UsageError:
    """The same error in the words that were typed: `--steps: …` for `train.steps: …`."""
    for option, _ in _given(groups):
        if isinstance(option.sets, str) and error.message.startswith((f"{option.sets}: ", f"{option.sets}.")):
            text = error.message.partition(": ")[2]
            return UsageError(f"{option.flag}: {text}", f"give {option.flag} another value")
    return error


def takes_groups(run: Callable[..., None]) -> bool:
    """Whether a command takes groups; else it takes Annotated parameters."""
    return any(dataclasses.is_dataclass(kind) for kind in get_type_hints(run).values())


def expanded(run: Callable[..., None]) -> Callable[..., None]:
    """A command as a function that takes every option of its groups, and --debug, as Typer understands it."""
    groups = {name: hint for name, hint in get_type_hints(run, include_extras=True).items() if name != "return"}
    chosen = {name: _Chosen(*_split(hint)) for name, hint in groups.items()}

    def call(*, debug: bool, **values: Any) -> None:  # debug: main looks for the word itself
        filled = {name: group.filled(values) for name, group in chosen.items()}
        try:
            run(**filled)
        except UsageError as error:
            spoken = in_flags(error, *filled.values())
            if spoken is error:
                raise
            raise spoken from None

    parameters = [parameter for group in chosen.values() for parameter in group.parameters()]
    parameters.append(inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug))
    call.__dict__["__signature__"] = inspect.Signature(parameters)
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _split(hint: Any) -> tuple[type, Only | None]:
    if get_origin(hint) is not Annotated:
        return hint, None
    kind, choice = get_args(hint)
    return kind, choice


class _Chosen:
    """A group, and what a command has of it."""

    def __init__(self, kind: type, choice: Only | None):
        self._kind, self._types = kind, get_type_hints(kind)
        fields = {field.name: field for field in dataclasses.fields(kind)}
        replaced = choice.replaced if choice else {}
        self._fields = {name: replaced.get(name, fields[name]) for name in (choice.names if choice else fields)}

    def parameters(self) -> Iterator[inspect.Parameter]:
        """Its options, each as a parameter that Typer understands."""
        for name, field in self._fields.items():
            option: Option = field.metadata["option"]
            about: dict[str, Any] = {"metavar": option.metavar, "help": option.help, "show_default": option.shown}
            about |= {"autocompletion": option.complete, **option.limits}
            if option.flag:
                info = typer.Option(option.flag, rich_help_panel=option.panel or self._panel(name), **about)
            else:
                info = typer.Argument(**about)
            annotation = Annotated[self._types[name], info]
            yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)

    def _panel(self, name: str) -> str:
        """What the docstring of the class says that declares the option."""
        owner = next(base for base in self._kind.__mro__ if name in inspect.get_annotations(base))
        return (owner.__doc__ or "").partition(".")[0].partition(":")[0]

    def filled(self, values: dict[str, Any]) -> Any:
        """The group with the values that were given, each read as its option says."""
        own = {}
        for name, field in self._fields.items():
            read, value = field.metadata["option"].read, values[name]
            own[name] = read(value) if read and value is not None else value
        return self._kind(**own)


Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show tracebacks, as DITKIT_DEBUG=1 does.", rich_help_panel=OTHER),
]
