"""How much memory a process needed at most while it trained, and while it continued."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

from harness import command, fork, preload, words, write_digits


def peaks(folder: str) -> dict[str, Any]:
    """Peak resident memory, in MB, of a run's first steps with a save, and of its continuation with one."""
    preload()
    place = Path(folder)
    digits = write_digits(place / "digits")
    large = {"model.width": 512, "model.depth": 6, "model.heads": 8, "train.save_every": 2, "train.validate_every": 100}
    found: dict[str, Any] = {"nothing": _peak(lambda: 0, place)}
    for name, steps in (("training", 2), ("continuing", 4)):
        line = words(place / "runs/large", digits, {**large, "train.steps": steps, "optim.schedule": "constant"})
        found[name] = _peak(command(line), place)
    return found


def _peak(work: Any, place: Path) -> float:
    child = fork(work, place / "log")
    _, status, used = os.wait4(child, 0)
    assert status == 0, (place / "log").read_text("utf-8")
    assert isinstance(used, resource.struct_rusage)
    return used.ru_maxrss / 1024
