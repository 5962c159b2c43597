"""How long compiling took last time on this machine, kept in the cache: said before it begins again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import torch

from ..config import RunConfig
from ..errors import MachineError
from ..io.atomic import write_atomically
from ..io.locks import exclusive
from ..io.paths import cache_dir, private_folder
from ..io.reading import read_json
from .memory import system_text

_LONGEST = 86400.0  # seconds; more is no time that compiling takes
_MOST = 200  # networks; the oldest is forgotten


def last_time(config: RunConfig, device: torch.device) -> float | None:
    """Seconds that compiling this network took last time on this processor, with this torch; None if never done."""
    return _read(cache_dir() / "compiled" / "times.json").get(_key(config, device))


def remember(config: RunConfig, device: torch.device, seconds: float) -> None:
    """Keep how long it took; a cache that cannot be written keeps nothing."""
    with contextlib.suppress(OSError, MachineError):
        path = private_folder("compiled") / "times.json"
        with exclusive(path):
            times = {**_read(path), _key(config, device): round(seconds, 1)}
            write_atomically(path, json.dumps(dict(list(times.items())[-_MOST:]), indent=1) + "\n")


def _read(path: Path) -> dict[str, float]:
    """What is kept; nothing where the file is missing or damaged."""
    times: Any = None
    with contextlib.suppress(OSError, ValueError):
        times = read_json(path)
    if not isinstance(times, dict):
        return {}
    return {key: float(value) for key, value in times.items() if type(value) in (int, float) and 0 < value < _LONGEST}


def _key(config: RunConfig, device: torch.device) -> str:
    network = hashlib.sha256(f"{config.model} {config.shape}".encode()).hexdigest()[:16]
    return f"{_processor(device)}, torch {torch.__version__}, {network}"


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = system_text(Path("/proc/cpuinfo")).splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
