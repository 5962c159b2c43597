"""Every moment at which saving can be cut short: a kill, a full disk or a broken one at each change of the disk."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import harness
from disk import Call, Watch
from harness import command, ending, finish, fork, litter, newest_whole, words, write_digits

FAULTS = ("kill", "ENOSPC", "EIO", "short")  # short: a write that does half of its work and says so


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A run, and the changes of the disk that it makes when nothing happens to it."""

    digits: Path
    settings: dict[str, Any]
    template: Path | None  # what is there before it begins
    calls: list[dict[str, str]]
    points: Sequence[int]  # calls at which something is to happen

    def begin(self, run: Path) -> list[str]:
        """The command line of the run in a folder of its own."""
        if self.template:
            shutil.copytree(self.template, run)
        return words(run, self.digits, self.settings)

    def had_saved(self, point: int) -> int:
        """The newest step whose checkpoint had its name, and that name was synced, before a change."""
        renamed = saved = newest_whole(self.template) if self.template else 0
        for call in self.calls[:point]:
            step = re.search(r"\.tmp-step-(\d+)-[0-9a-f]+$", call["path"])
            if call["name"] == "replace" and step:
                renamed = int(step[1])
            elif call["name"] == "fsync" and call["path"].endswith("/checkpoints"):
                saved = renamed
        return saved


def crash_points(
    folder: str, saves: int = 1, faults: Sequence[str] = FAULTS, every: int = 1, mutant: str | None = None
) -> dict[str, Any]:
    """Each fault at every change of the disk: as the run begins, and from before its fourth save to after its pruning.

    Of the writes of one file, which has one for each tensor, the first two and the last. With more `saves`, at all
    changes, without exception, of a run that saves so often. Then the run continues, undisturbed, to its end.
    Lost is a run that has no whole checkpoint where it had one, that refuses to continue, or that ends otherwise;
    `codes` counts how the faults ended the process. `every` takes each n-th change only.
    """
    began, place = time.monotonic(), Path(folder)
    digits = write_digits(place / "digits")
    settings = {"train.steps": 9 if saves == 1 else 2 * saves, "train.validate_every": 2, "train.keep": 1}
    whole, expected = _watched(place / "straight", digits, settings)
    scenes = [whole]
    if saves == 1:
        template = place / "template"
        assert finish(fork(lambda: _train_until(6, template, digits, settings), place / "log")) == 0
        late, end = _watched(place / "late", digits, settings, template)
        assert end == expected
        fourth = [point for point in range(_at(late, 8), _at(late, 9) + 1) if not _is_like_its_neighbours(late, point)]
        scenes = [replace(whole, points=range(_at(whole, 1))), replace(late, points=fourth)]
    trials = [(scene, point, fault) for scene in scenes for point in scene.points[::every] for fault in faults]
    trials = [one for one in trials if one[2] != "short" or one[0].calls[one[1]]["name"] == "write"]

    def some(part: int, parts: int) -> list[Any]:
        return [
            _trial(place / f"{fault}-{point}-{part}", scene, point, fault, expected, mutant)
            for scene, point, fault in trials[part::parts]
        ]

    results = harness.side_by_side(some, place / "parts")
    lost = [result["why"] for result in results if result["why"]]
    return {
        "points": sum(len(scene.points) for scene in scenes),
        "trials": len(results),
        "lost": len(lost),
        "seconds": round(time.monotonic() - began, 1),
        "kinds": dict(Counter(scene.calls[point]["name"] for scene in scenes for point in scene.points)),
        "codes": dict(Counter(f"{result['fault']} {result['exit']}" for result in results)),
        "why": lost,
    }


def _watched(
    run: Path, digits: Path, settings: dict[str, Any], template: Path | None = None
) -> tuple[Scene, dict[str, str]]:
    """A run to which nothing happens, and how it ends."""
    file, log = run.with_suffix(".json"), run.with_suffix(".log")
    scene = Scene(digits=digits, settings=settings, template=template, calls=[], points=())
    line = scene.begin(run)

    def work() -> int:
        with Watch() as watch:
            code = command(line)()
        changes = [call for call in watch.calls if call.changes]
        rows = [{"name": one.name, "path": one.path, "data": one.data[:10].decode("latin-1")} for one in changes]
        file.write_text(json.dumps(rows), encoding="utf-8")
        return code

    assert finish(fork(work, log)) == 0, log.read_text(encoding="utf-8")
    calls = json.loads(file.read_text(encoding="utf-8"))
    return replace(scene, calls=calls, points=range(len(calls))), ending(run)


def _train_until(step: int, run: Path, digits: Path, settings: dict[str, Any]) -> None:
    from ditkit.events import Stepped
    from ditkit.training.loop import train

    done = [0]

    def listen(event: Any) -> None:
        if isinstance(event, Stepped):
            done.append(event.step)

    train(harness.config(digits, settings), run, listen, device="cpu", should_stop=lambda: done[-1] >= step)


def _at(scene: Scene, step: int) -> int:
    """Where the metrics of a step are written."""
    return next(index for index, call in enumerate(scene.calls) if call["data"] == f'{{"step":{step},')


def _is_like_its_neighbours(scene: Scene, point: int) -> bool:
    """Whether a change is a write between writes of the same file."""
    near = scene.calls[point - 2 : point + 2]
    return {call["name"] for call in near} == {"write"} and len({call["path"] for call in near}) == 1


def _trial(
    run: Path, scene: Scene, point: int, fault: str, expected: dict[str, str], mutant: str | None
) -> dict[str, Any]:
    """One fault, then the same command again."""
    line, log = scene.begin(run), run.with_suffix(".log")
    code = finish(fork(lambda: _faulty(line, point, fault, mutant), log))
    kept = newest_whole(run)
    again = finish(fork(command(line, mutant), log))
    said = log.read_text(encoding="utf-8")
    why = ""
    if code not in {"kill": (-9,), "short": (0,)}.get(fault, (0, 6)):
        why = f"exit {code}"
    elif len(re.findall("^error: ", said, re.MULTILINE)) != (code == 6) or "Traceback" in said:
        why = "not one error line"
    elif kept < scene.had_saved(point):
        why = f"no checkpoint of step {scene.had_saved(point)} or later"
    elif again:
        why = f"exit {again} when continued"
    elif ending(run) != expected or litter(run):
        why = f"ended otherwise {litter(run)}"
    if why:
        what = f"{scene.calls[point]['name']} {Path(scene.calls[point]['path']).name}"
        return {"fault": fault, "exit": code, "why": f"{fault} at change {point} ({what}): {why}: {said[-400:]}"}
    shutil.rmtree(run)
    log.unlink()
    return {"fault": fault, "exit": code, "why": ""}


def _faulty(line: list[str], point: int, fault: str, mutant: str | None) -> int:
    """A command with a fault at its change number `point`."""

    def before(number: int, call: Call) -> int | None:
        if number != point:
            return None
        if fault == "short":
            return watch.tear(call)
        if fault == "kill":
            if call.name == "write":
                watch.tear(call)
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)), call.path)

    with Watch(before) as watch:
        return command(line, mutant)()


def full_disk(folder: str, how: str, sizes: int) -> dict[str, Any]:
    """A disk that takes so many bytes more while the second checkpoint is saved, for so many sizes; then it is mended.

    Lost is a run that ends otherwise than with exit code 6 (or 0, where all fitted), leaves something behind, loses
    the first checkpoint, or does not end as a straight one once there is space.
    """
    began, place = time.monotonic(), Path(folder)
    digits = write_digits(place / "digits")
    settings = {"train.steps": 6, "train.keep": 1}
    _, expected = _watched(place / "straight", digits, settings)
    needed = sum(path.stat().st_size for path in (place / "straight/checkpoints/step-0000006").iterdir())
    disk = place / "disk"
    disk.mkdir()
    if how == "a small file system":
        command_line = ["mount", "-t", "tmpfs", "-o", "size=8m", "ditkit", str(disk)]
        done = subprocess.run(command_line, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            return {"skipped": f"cannot mount: {done.stderr.strip()}"}
    try:
        lost, full = [], 0
        for number in range(sizes):
            size = (
                needed * number // (sizes - 1) if how == "a small file system" else 300 + needed * number // (2 * sizes)
            )
            code, why = _on_full_disk(disk / f"run-{number}", digits, settings, size, how, expected)
            full += code == 6
            lost += [f"{size} bytes: {why}"] if why else []
    finally:
        if how == "a small file system":
            subprocess.run(["umount", str(disk)], check=True)
    seconds = round(time.monotonic() - began, 1)
    return {"sizes": sizes, "full": full, "lost": len(lost), "seconds": seconds, "why": lost}


def _on_full_disk(
    run: Path, digits: Path, settings: dict[str, Any], size: int, how: str, expected: dict[str, str]
) -> tuple[int, str]:
    line, log, ballast = words(run, digits, settings), run.parent.parent / "full.log", run.parent / "ballast"
    log.unlink(missing_ok=True)

    def fills_up() -> int:
        """Once the second checkpoint has been weighed and found to fit."""
        from ditkit.checkpoint import store

        check = store.check_space

        def check_then_fill(where: Path, needed: int, what: str) -> None:
            check(where, needed, what)
            if "step 4" in what and how != "a small file system":
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            elif "step 4" in what:
                with ballast.open("wb") as file:
                    file.write(bytes(shutil.disk_usage(run).free - size))

        store.check_space = check_then_fill
        return command(line)()

    code = finish(fork(fills_up, log))
    left, kept = litter(run), newest_whole(run)
    ballast.unlink(missing_ok=True)
    again = finish(fork(command(line), log))
    said = log.read_text(encoding="utf-8")
    if code not in (0, 6) or said.count("error: ") != (code == 6) or "Traceback" in said:
        return code, f"exit {code}: {said[-400:]}"
    if left or kept < 2:
        return code, f"left {left} and step {kept}"
    if again or ending(run) != expected:
        return code, f"exit {again} or another end when continued"
    shutil.rmtree(run)
    return code, ""
