"""Two processes that train one run together over gloo, forked from one that has imported torch."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import command, ending, finish, fork, litter, preload, words, write_digits


def several_processes(folder: str) -> dict[str, Any]:
    """Runs of one and of two processes: straight, in parts, killed, signalled, and mixed."""
    preload()
    place = Path(folder)
    digits = write_digits(place / "digits")
    found: dict[str, Any] = {"codes": {}, "ends": {}, "said": {}}

    def train(name: str, size: int, **settings: Any) -> None:
        children = start(place, digits, name, size, settings)
        found["codes"].setdefault(name, []).append([finish(child, 60) for child in children])

    train("alone", 1)
    train("two", 2)
    train("parts", 2, **{"train.steps": 7})
    train("parts", 2)
    train("narrowed", 2, **{"train.steps": 12})
    train("narrowed", 1)
    train("workers", 2, **{"data.workers": 1})
    for name, number in (("killed", signal.SIGKILL), ("signalled", signal.SIGTERM)):
        children = start(place, digits, name, 2, {})
        wait_for_rows(place / "runs" / name / "metrics.jsonl", 5)
        os.kill(children[1], number)
        if number == signal.SIGKILL:  # as a launcher does when one of its processes dies
            os.kill(children[0], signal.SIGKILL)
        found["codes"][name] = [[finish(child, 60) for child in children]]
        train(name, 2)
    for run in sorted((place / "runs").iterdir()):
        found["ends"][run.name] = ending(run)
        found["said"][run.name] = "".join(path.read_text("utf-8") for path in sorted(place.glob(f"{run.name}-*.log")))
        assert litter(run) == [], litter(run)
    return found


def start(
    place: Path, digits: Path, name: str, size: int, settings: dict[str, Any], more: Sequence[str] = (), fault: int = -1
) -> list[int]:
    """The processes of one run, as a launcher would start them; `fault` is the rank of one that fails."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = [word for word in words(place / "runs" / name, digits, settings) if word != "--quiet"] + [*more]
    children = []
    for rank in range(size):
        launch = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

        def work(launch: dict[str, Any] = launch, fault: str | None = "a_file_goes" if fault == rank else None) -> int:
            if size > 1:
                os.environ.update({key: str(value) for key, value in launch.items()})
            return command(line, fault)()

        children.append(fork(work, place / f"{name}-{rank}.log"))
    return children


def wait_for_rows(path: Path, rows: int, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if path.exists() and path.read_bytes().count(b"\n") >= rows:
            return
        time.sleep(0.005)
    raise AssertionError(f"{path} never had {rows} rows")
