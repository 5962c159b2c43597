"""The processes that a launcher (torchrun, accelerate launch, srun) started together, as the environment says."""

from __future__ import annotations

import os

from ..errors import UsageError

_joined = False


def launched() -> tuple[int, int]:
    """Rank and number of processes; (0, 1) for one that was started alone."""
    rank, size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    return (rank, size) if size > 1 else (0, 1)


def launched_here() -> int:
    """How many of them are on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def _number(name: str, otherwise: int) -> int:
    try:
        return int(os.environ.get(name, otherwise))
    except ValueError:
        raise UsageError(f"{name} in the environment is not a number", "unset it") from None


def leads() -> bool:
    """Whether this process speaks and writes: the only one, or the first of all."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def restarts() -> bool:
    """Whether torchrun would start a run again that fails, or Slurm has done so."""
    return any(os.environ.get(name, "0") != "0" for name in ("TORCHELASTIC_MAX_RESTARTS", "SLURM_RESTART_COUNT"))


def note_joined() -> None:
    """From here on the processes agree on who tells what went wrong."""
    global _joined
    _joined = True


def echoes() -> bool:
    """Whether what is wrong now is wrong in the first process of this machine, too, which says it."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    return not (_joined or alone or os.environ.get("LOCAL_RANK", "0") == "0")
