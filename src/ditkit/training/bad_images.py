"""Images that cannot be read: listed in the run's folder, and counted against data.max_bad."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..errors import DataError, MachineError
from ..events import Warned
from ..io.atomic import sync
from ..io.reading import read_regular
from ..runs.folder import check_ours
from .session import TrainingSession


def open_bad_images(session: TrainingSession, *, same_images: bool) -> None:
    """Read the list of an earlier start, unless the images are others now, and add the held-out ones."""
    path = session.folder.bad_files
    if same_images:
        session.batches.replace(session.replaced)
    else:
        session.replaced.clear()
    if session.group.is_main and path.exists() and not same_images:
        path.unlink()
    elif session.group.is_main and path.exists():
        try:
            lines = read_regular(path).decode("utf-8", errors="replace").splitlines()
        except OSError as error:
            raise MachineError(f"cannot read {path}: {error.strerror}", "take it away; it is written anew") from None
        session.bad = dict.fromkeys(line for line in lines if line)
    session.bad = session.group.broadcast(session.bad)
    if any(session.group.all_gather(bool(session.validation.bad))):
        note_bad_images(session, session.validation.bad, held_out=True)


def note_bad_images(session: TrainingSession, bad: Mapping[int, str], *, held_out: bool = False) -> None:
    """List images that could not be read, index -> reason, of all processes, which must call this together.

    Raises DataError when they are too many.
    """
    gathered = session.group.all_gather(dict(bad))
    if not held_out:
        session.replaced.update(index for own in gathered for index in own)
    reasons = (_line(reason) for own in gathered for reason in own.values())
    new = [reason for reason in dict.fromkeys(reasons) if reason not in session.bad]
    session.bad |= dict.fromkeys(new)
    path = session.folder.bad_files
    if session.group.is_main and new:
        check_ours(session.folder)
        try:
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{reason}\n" for reason in new)
                sync(file.fileno())
        except OSError as error:
            raise MachineError(f"cannot write {path}: {error.strerror}", "free some space, then run again") from None
        session.on_event(Warned(step=session.step, text=f"{new[0]}: another image takes its place; see {path}"))
    if len(session.bad) > session.config.data.max_bad * session.images:
        last = list(session.bad)[-1]
        enough = min(1, max(0.05, math.ceil(200 * len(session.bad) / session.images) / 100))  # twice as many
        raise DataError(
            f"{len(session.bad)} of {session.images} images cannot be read, more than data.max_bad allows ({last})",
            f"they are listed in {path}, and `ditkit data show` finds all: mend or remove them, or allow more "
            f"with --set data.max_bad={enough:g}",
        )


def _line(text: str) -> str:
    """A text as one line of a UTF-8 file, the same when it is read back; names of files can be any bytes."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())
