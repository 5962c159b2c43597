"""Two processes that train one run together over gloo, forked from one that has imported torch."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness import command, ending, finish, fork, litter, preload, words, write_digits
from patience import Limit


def several_processes(folder: str) -> dict[str, Any]:
    """Runs of one and of two processes: straight, in parts, killed, signalled, and mixed."""
    preload()
    from ditkit.runs.folder import RunFolder, lock

    place = Path(folder)
    digits = write_digits(place / "digits")
    found: dict[str, Any] = {"codes": {}, "ends": {}, "said": {}}

    def train(name: str, size: int, **settings: Any) -> None:
        children = start(place, digits, name, size, settings)
        found["codes"].setdefault(name, []).append([finish(child, 60) for child in children])

    train("alone", 1)
    train("two", 2)
    train("parts", 2, **{"train.steps": 7})
    with lock(RunFolder(place / "runs/parts")):
        train("parts", 2)
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


def several_draw(folder: str) -> dict[str, Any]:
    """Images drawn by one, two and three processes, and by two of which one fails, by what fails."""
    preload()
    place = Path(folder)
    digits = write_digits(place / "digits")
    assert finish(fork(command(words(place / "runs/a", digits, {"train.steps": 2})), place / "train.log")) == 0
    found: dict[str, Any] = {"codes": {}, "images": {}, "said": {}}

    def draw(name: str, size: int, broken: str | None = None, rank: int = 1, **words: str) -> None:
        line = ["sample", "--model", str(place / "runs/a"), "--labels", "3*5", "1*2", "--device", "cpu"]
        line += ["--steps", "2", "--out", str(place / name)]
        wrong = [word for key, value in words.items() for word in (f"--{key}", value)]
        works = [
            without_protection_at(broken if each == rank else None, [*line, *(wrong if each == rank else [])])
            for each in range(size)
        ]
        children = launch(works, place, name)
        found["codes"][name] = [finish(child, 60) for child in children]
        found["images"][name] = {one.name: one.read_bytes().hex() for one in sorted((place / name).glob("*"))}
        found["said"][name] = [path.read_text("utf-8") for path in sorted(place.glob(f"{name}-*.log"))]

    for size in (1, 2, 3):
        draw(f"by {size}", size)
    draw("no model", 2, model="nowhere")
    draw("no label", 2, labels="cat")
    draw("no memory", 2, "no_memory_to_draw")
    draw("no disk", 2, "no_disk_for_images", rank=0)
    draw("killed", 2, "killed_while_drawing")
    return found


def without_protection_at(broken: str | None, line: list[str]) -> Callable[[], int]:
    """A command line as work, something in it broken."""

    def work() -> int:
        if broken:
            BROKEN[broken]()
        return command(line)()

    return work


def _no_memory_to_draw() -> None:
    from ditkit.sampling import generate

    def draw(*_: Any) -> None:
        raise MemoryError

    generate._Sampler.draw = draw  # type: ignore[method-assign]


def _no_disk_for_images() -> None:
    from ditkit.sampling import request

    def save(_: Any, path: Path, __: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    request.save_image = save


def _killed_while_drawing() -> None:
    from ditkit.sampling import generate

    generate._Sampler.draw = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]


BROKEN = {
    "no_memory_to_draw": _no_memory_to_draw,
    "no_disk_for_images": _no_disk_for_images,
    "killed_while_drawing": _killed_while_drawing,
}


def start(
    place: Path, digits: Path, name: str, size: int, settings: dict[str, Any], more: Sequence[str] = (), fault: int = -1
) -> list[int]:
    """The processes of one run, as a launcher would start them; `fault` is the rank of one that fails."""
    line = [word for word in words(place / "runs" / name, digits, settings) if word != "--quiet"] + [*more]
    works = [command(line, "a_file_goes" if rank == fault else None) for rank in range(size)]
    return launch(works, place, name)


def launch(works: list[Callable[[], int]], place: Path, name: str) -> list[int]:
    """One process for each work, as a launcher would start them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    size, children = len(works), []
    for rank, work in enumerate(works):
        named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

        def launched(work: Callable[[], int] = work, named: dict[str, Any] = named) -> int:
            if size > 1:
                os.environ.update({key: str(value) for key, value in named.items()})
            return work()

        children.append(fork(launched, place / f"{name}-{rank}.log"))
    return children


def wait_for_rows(path: Path, rows: int, seconds: float = 60) -> None:
    limit = Limit(seconds)
    while not limit.is_over():
        if path.exists() and path.read_bytes().count(b"\n") >= rows:
            return
        time.sleep(0.005)
    raise AssertionError(f"{path} never had {rows} rows")
