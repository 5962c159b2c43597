"""`ditkit`: the one place where a command line is run, and where errors become words and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import console, streams
from .commands import COMMANDS, Group, module_of, opened, root


def command() -> Group:
    """The whole command line with every command imported."""
    return opened(root())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code. Nothing escapes but what ends Python itself."""
    if arguments is None:
        streams.open_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    streams.spell_everything()
    stdout = sys.stdout
    try:
        code = root().main(given, prog_name="ditkit", standalone_mode=False)
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
        known = getattr(module_of(known[word]), "COMMANDS", {})
    return " ".join(spoken)
