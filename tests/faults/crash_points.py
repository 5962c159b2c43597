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
from pathlib import Path
from typing import Any

import harness
from disk import Call, Watch
from harness import command, ending, finish, fork, litter, newest_whole, words, write_digits

FAULTS = ("kill", "ENOSPC", "EIO", "short")  # short: a write that does half of its work and says so


def crash_points(
    folder: str,
    saves: int = 1,
    faults: Sequence[str] = FAULTS,
    every: int = 1,
    mutant: str | None = None,
) -> dict[str, Any]:
    """Each fault at every change of the disk: as the run begins, and from before the fourth save to after its pruning.

    With more `saves`, at all changes of the run. Then the run continues, undisturbed, to its end. Lost is a run that
    has no whole checkpoint where it had one, that refuses to continue, or that ends otherwise; `codes` counts how the
    faults ended the process. `every` takes each n-th change only.
    """
    began, place = time.monotonic(), Path(folder)
    digits = write_digits(place / "digits")
    settings = {"train.steps": 10 if saves == 1 else 2 * saves, "train.validate_every": 2, "train.keep": 1}
    calls, expected = _watched_run(place, digits, settings)
    first, last = _at(calls, '{"step":8,'), _at(calls, '{"step":9,') + 1
    beginning = range(_at(calls, '{"step":1,')) if saves == 1 else ()
    points = [*beginning, *range(first, last)] if saves == 1 else range(len(calls))

    def some(part: int, parts: int) -> list[Any]:
        both = [(point, fault) for point in points[::every] for fault in faults]
        mine = [(point, fault) for point, fault in both if fault != "short" or calls[point]["name"] == "write"]
        return [
            _trial(place / f"{fault}-{point}", digits, settings, point, fault, calls, expected, mutant)
            for point, fault in mine[part::parts]
        ]

    trials = harness.side_by_side(some, place / "parts")
    lost = [trial["why"] for trial in trials if trial["why"]]
    return {
        "points": len(points),
        "trials": len(trials),
        "lost": len(lost),
        "seconds": round(time.monotonic() - began, 1),
        "kinds": dict(Counter(calls[point]["name"] for point in points)),
        "codes": dict(Counter(f"{trial['fault']} {trial['exit']}" for trial in trials)),
        "why": lost,
    }


def _watched_run(place: Path, digits: Path, settings: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The changes of a straight run, in order, and how it ends."""
    run, file = place / "straight", place / "calls.json"

    def work() -> int:
        with Watch() as watch:
            code = command(words(run, digits, settings))()
        changes = [call for call in watch.calls if call.changes]
        rows = [{"name": one.name, "path": one.path, "data": one.data[:10].decode("latin-1")} for one in changes]
        file.write_text(json.dumps(rows), encoding="utf-8")
        return code

    assert finish(fork(work, place / "log")) == 0, (place / "log").read_text(encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8")), ending(run)


def _at(calls: list[dict[str, Any]], row: str) -> int:
    """Where the metrics of a step are written."""
    return next(index for index, call in enumerate(calls) if call["data"] == row)


def _trial(
    run: Path,
    digits: Path,
    settings: dict[str, Any],
    point: int,
    fault: str,
    calls: list[dict[str, Any]],
    expected: dict[str, str],
    mutant: str | None,
) -> dict[str, Any]:
    """One fault, then the same command again."""
    line, log = words(run, digits, settings), run.with_suffix(".log")

    def faulty() -> int:
        watch = Watch()

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

        watch.before = before
        with watch:
            return command(line, mutant)()

    code = finish(fork(faulty, log))
    before = newest_whole(run)
    again = finish(fork(command(line, mutant), log)) if run.exists() or code else code
    where = f"{fault} at change {point} ({calls[point]['name']} {Path(calls[point]['path']).name})"
    said = log.read_text(encoding="utf-8")
    why = ""
    if code not in {"kill": (-9,), "short": (0,)}.get(fault, (0, 6)):
        why = f"exit {code}"
    elif len(re.findall("^error: ", said, re.MULTILINE)) != (code == 6) or "Traceback" in said:
        why = "not one error line"
    elif before < _saved_before(calls, point):
        why = f"no checkpoint of step {_saved_before(calls, point)} or later"
    elif again:
        why = f"exit {again} when continued"
    elif ending(run) != expected or litter(run):
        why = f"ended otherwise {litter(run)}"
    if not why:
        shutil.rmtree(run, ignore_errors=True)
        log.unlink()
    return {"fault": fault, "exit": code, "why": f"{where}: {why}: {said[-400:]}" if why else ""}


def _saved_before(calls: list[dict[str, Any]], point: int) -> int:
    """The newest step whose checkpoint was renamed to its name, and that name synced, before a change."""
    renamed = saved = 0
    for call in calls[:point]:
        target = re.search(r"\.tmp-step-(\d+)-[0-9a-f]+$", call["path"])
        if call["name"] == "replace" and target:
            renamed = int(target[1])
        elif call["name"] == "fsync" and call["path"].endswith("/checkpoints"):
            saved = renamed
    return saved


def full_disk(folder: str, how: str, sizes: int) -> dict[str, Any]:
    """A disk that takes so many bytes more while the second checkpoint is saved, for so many sizes; then it is mended.

    Lost is a run that ends otherwise than with exit code 6 (or 0, where all fitted), leaves something behind, loses
    the first checkpoint, or does not end as a straight one once there is space.
    """
    began, place = time.monotonic(), Path(folder)
    digits = write_digits(place / "digits")
    settings = {"train.steps": 6, "train.keep": 1}
    _, expected = _watched_run(place, digits, settings)
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
        from ditkit import checkpoint

        check = checkpoint.check_space

        def check_then_fill(where: Path, needed: int, what: str) -> None:
            check(where, needed, what)
            if "step 4" in what and how != "a small file system":
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            elif "step 4" in what:
                with ballast.open("wb") as file:
                    file.write(bytes(shutil.disk_usage(run).free - size))

        checkpoint.check_space = check_then_fill
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
