"""The processes that a launcher (torchrun, accelerate launch, srun) started together, as the environment says.

Nothing else reads the launcher's variables. No torch, so that commands can ask before it is loaded.
"""

from __future__ import annotations

import os

from ..errors import UsageError

_joined = False


def launched() -> tuple[int, int]:
    """Rank and number of processes; (0, 1) for one that was started alone. Raises UsageError for what is no number."""
    rank, size = _number("RANK") or 0, _number("WORLD_SIZE") or 1
    return (rank, size) if size > 1 else (0, 1)


def launched_here() -> int:
    """How many of them are on this machine."""
    return _number("LOCAL_WORLD_SIZE") or 1


def local_rank() -> int | None:
    """This process's number among those on this machine; None where the launcher does not say."""
    return _number("LOCAL_RANK" if "LOCAL_RANK" in os.environ else "SLURM_LOCALID")


def _number(name: str) -> int | None:
    try:
        return int(os.environ[name])
    except KeyError:
        return None
    except ValueError:
        raise UsageError(f"{name} in the environment is not a number", "unset it") from None


def is_main() -> bool:
    """Whether this process prints and writes: the only one, or the first of all."""
    try:
        return launched()[0] == 0
    except UsageError:  # some process has to say so
        return True


def has_launcher() -> bool:
    """Whether a launcher started this process, perhaps alone: then nobody answers questions at a terminal."""
    return "RANK" in os.environ


def holds_store() -> bool:
    """Whether it is the launcher that holds the store through which the processes find each other, not rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def restarts() -> bool:
    """Whether torchrun would start a run again that fails, or Slurm has done so."""
    return any(os.environ.get(name, "0") != "0" for name in ("TORCHELASTIC_MAX_RESTARTS", "SLURM_RESTART_COUNT"))


def note_joined() -> None:
    """From here on the processes agree on which of them reports an error."""
    global _joined
    _joined = True


def echoes() -> bool:
    """Whether an error of this process occurs in the first process of this machine too, which reports it."""
    try:
        return not _joined and launched()[1] > 1 and bool(local_rank())
    except UsageError:
        return False
