"""SIGKILL at random moments, signals to whole process groups, and runs that must end as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from harness import LONGEST, command, ended, ending, finish, fork, litter, newest_whole, words, write_digits
from patience import Limit, scaled


def straight(folder: Path, digits: Path, settings: dict[str, Any]) -> tuple[dict[str, str], float]:
    """How a run ends that nothing happens to, and the seconds that its process lives."""
    run = folder / "straight"
    before = time.monotonic()
    code = finish(fork(command(words(run, digits, settings)), folder / "straight.log"))
    assert code == 0, (folder / "straight.log").read_text(encoding="utf-8")
    seconds = time.monotonic() - before
    if settings.get("data.workers"):  # the same images in the same order, whoever reads them
        alone = folder / "alone"
        assert finish(fork(command(words(alone, digits, {**settings, "data.workers": 0})), folder / "log")) == 0
        assert ending(alone) == ending(run)
    return ending(run), seconds


def random_kills(
    folder: str, kills: int, workers: int = 0, seed: int = 0, patience: float = 8, mutant: str | None = None
) -> dict[str, Any]:
    """Runs that are killed at moments uniform over a process's life and begun again at once, until `kills` are done.

    Lost is a run whose newest whole checkpoint is older than one it had before, that refuses to continue, or whose
    end differs from the straight run's. Orphans are processes whose workers outlive them by `patience` seconds.
    """
    began, source, place = time.monotonic(), random.Random(seed), Path(folder)
    digits = write_digits(place / "digits")
    settings = {"data.workers": workers}
    expected, life = straight(place, digits, settings)
    done, lost, runs, orphans = 0, [], 0, 0
    while done < kills:
        run, groups = place / f"run-{runs}", []
        runs += 1
        count, trouble = _kill_until_done(run, words(run, digits, settings), source, life, kills - done, mutant, groups)
        done += count
        orphans += outliving(groups, patience)
        if not trouble and (ending(run) != expected or litter(run)):
            trouble = f"it ended otherwise: {_difference(ending(run), expected)} {litter(run)}"
        if trouble:
            lost.append(f"{run.name} after {count} kills: {trouble}")
        else:
            shutil.rmtree(run)
    seconds = round(time.monotonic() - began, 1)
    return {"kills": done, "runs": runs, "lost": len(lost), "orphans": orphans, "seconds": seconds, "why": lost}


def _kill_until_done(
    run: Path, line: list[str], source: random.Random, life: float, most: int, mutant: str | None, groups: list[int]
) -> tuple[int, str]:
    """Kills of one run, and what went wrong if anything did; the process groups join `groups`."""
    count, newest, log = 0, 0, run.with_suffix(".log")
    while True:
        child = fork(in_own_group(command(line, mutant)), log)
        groups.append(child)
        code = ended(child, source.uniform(0, life)) if count < most else finish(child)
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            count += 1
        elif code:
            return count, f"exit {code}: {log.read_text(encoding='utf-8')[-600:]}"
        if newest_whole(run) < newest:
            return count, f"the newest whole checkpoint was of step {newest}, now of {newest_whole(run)}"
        newest = newest_whole(run)
        if code == 0:
            return count, ""


def in_own_group(work: Callable[[], int]) -> Callable[[], int]:
    """The same work in a process group that is named after its process, which hears SIGHUP whoever runs the tests."""

    def in_group() -> int:
        os.setpgid(0, 0)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored in what nohup has started
        return work()

    return in_group


def outliving(groups: list[int], seconds: float) -> int:
    """How many process groups still have a process after so many seconds; those are ended then."""
    limit, left = Limit(seconds), groups
    while (left := [group for group in left if _is_there(group)]) and not limit.is_over():
        time.sleep(0.05)
    for group in left:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    return len(left)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def killed_as_workers_begin(folder: str, mutant: str = "workers_begin_slowly", seconds: float = 3) -> dict[str, Any]:
    """A kill -9 of a training process alone while its two workers begin: are they gone after so many seconds?"""
    place = Path(folder)
    line = words(place / "run", write_digits(place / "digits"), {"data.workers": 2, "data.worker_start": "fork"})
    child = Child(fork(in_own_group(command(line, mutant)), place / "log"))
    _wait_until(child.has_children, child)
    time.sleep(0.3)
    assert child.poll() is None, (place / "log").read_text(encoding="utf-8")
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    return {"orphans": outliving([child.pid], seconds)}


def _difference(got: dict[str, str], expected: dict[str, str]) -> list[str]:
    return sorted(key for key in got.keys() | expected.keys() if got.get(key) != expected.get(key))


def plain_kills(folder: str, kills: int, seed: int = 0) -> dict[str, Any]:
    """The same with `python -m ditkit` as it is typed: killed while it imports, begins, trains or saves."""
    began, source, place = time.monotonic(), random.Random(seed), Path(folder)
    digits = write_digits(place / "digits")
    settings = {"train.steps": 200 * kills, "train.save_every": 10}  # more than it gets to
    expected, _ = straight(place, digits, settings)
    run = place / "run"
    line, newest, lost = [sys.executable, "-m", "ditkit", *words(run, digits, settings)], 0, []
    for number in range(kills + 1):
        before = (run / "metrics.jsonl").stat().st_size if (run / "metrics.jsonl").exists() else 0
        with subprocess.Popen(line, stderr=subprocess.PIPE, encoding="utf-8") as process:
            assert process.stderr
            if number < kills:
                _wait_for_rows(run, process, before)
                time.sleep(source.uniform(0, 0.3))
                process.kill()
            said = process.stderr.read()
        if process.returncode != (-9 if number < kills else 0):
            lost.append(f"exit {process.returncode}: {said[-600:]}")
        if newest_whole(run) < newest:
            lost.append(f"step {newest} was whole, now step {newest_whole(run)}")
        newest = newest_whole(run)
    if ending(run) != expected or litter(run):
        lost.append(f"it ended otherwise: {_difference(ending(run), expected)} {litter(run)}")
    return {"kills": kills, "lost": len(lost), "seconds": round(time.monotonic() - began, 1), "why": lost}


def _wait_for_rows(run: Path, process: Any, size: int, rows: int = 1) -> None:
    """Until a run has written some rows after the first `size` bytes of its metrics, or has ended."""
    metrics = run / "metrics.jsonl"
    _wait_until(lambda: metrics.exists() and metrics.read_bytes()[size:].count(b"\n") >= rows, process)


def _wait_until(is_so: Callable[[], bool], process: Any) -> None:
    limit = Limit(LONGEST)
    while not limit.is_over() and process.poll() is None and not is_so():
        time.sleep(0.002)


def group_signals(folder: str, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A signal to a whole process group, two workers included; then the run continues. A case is what _signalled takes.

    Given for each: the exit code, the seconds until the end, the steps that were done and are in no checkpoint
    (`lost`), and whether the continued run ends as a straight one does (`equal`).
    """
    place = Path(folder)
    digits = write_digits(place / "digits")
    settings = {"train.steps": 150, "train.save_every": 150, "train.validate_every": 150}
    expected, _ = straight(place, digits, settings)
    results = []
    for index, case in enumerate(cases):
        run = place / f"run-{index}"
        result = _signalled(run, digits, settings, **case)
        code = finish(fork(command(words(run, digits, settings)), run.with_suffix(".log")))
        result["equal"] = code == 0 and ending(run) == expected and not litter(run)
        results.append({**result, "said": run.with_suffix(".log").read_text(encoding="utf-8")[-3000:]})
    return results


def _signalled(
    run: Path,
    digits: Path,
    settings: dict[str, Any],
    *,
    number: int,
    start: str,
    begins: bool = False,
    twice: bool = False,
    mutant: str | None = None,
) -> dict[str, Any]:
    """The signal comes after three steps or, with `begins`, while a worker begins; with `twice`, 0.3 s later again."""
    line, log = words(run, digits, {**settings, "data.workers": 2, "data.worker_start": start}), run.with_suffix(".log")
    child = Child(fork(in_own_group(command(line, mutant)), log))
    if begins:
        _wait_until(child.has_children, child)
        time.sleep(0.3)
    else:
        _wait_for_rows(run, child, 0, rows=3)
    assert child.poll() is None, log.read_text(encoding="utf-8")
    before = time.monotonic()
    os.killpg(child.pid, number)
    if twice:
        time.sleep(0.3)
        os.killpg(child.pid, number)
    code = finish(child.pid, 30)
    seconds = round(time.monotonic() - before, 2)
    return {"exit": code, "seconds": seconds, "lost": _last_step(run) - newest_whole(run)}


def _last_step(run: Path) -> int:
    rows = (run / "metrics.jsonl").read_bytes().splitlines() if (run / "metrics.jsonl").exists() else []
    return max((json.loads(row)["step"] for row in rows), default=0)


class Child:
    """A fork with the methods of Popen that waiting needs."""

    def __init__(self, pid: int):
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            self._code = ended(self.pid, 0)
        return self._code

    def has_children(self) -> bool:
        """Whether it has begun a process that is still there, where the system says."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return bool(children.read_text().split()) if children.exists() else True


def frozen_workers(folder: str, twice: bool) -> dict[str, Any]:
    """Both workers of a run are frozen (as by a dead network drive); then Ctrl-C comes twice, or nothing at all.

    Given: the exit code, the seconds until the end, and the step that is saved.
    """
    place = Path(folder)
    settings = {
        "data.workers": 2,
        "data.worker_timeout": round(scaled(3)),
        "data.worker_start": "fork",
        "train.steps": 100_000,
    }
    settings |= {"train.save_every": 100_000, "train.validate_every": 100_000, "train.log_every": 1}
    run, log = place / "run", place / "log"
    child = Child(fork(in_own_group(command(words(run, write_digits(place / "digits"), settings))), log))
    _wait_for_rows(run, child, 0, rows=3)
    for worker in psutil.Process(child.pid).children():
        worker.suspend()
    time.sleep(0.5)  # in which what is prepared already is used up
    before = time.monotonic()
    for _ in range(2 if twice else 0):
        os.kill(child.pid, signal.SIGINT)
        time.sleep(0.2)
    code = finish(child.pid, 60)
    seconds = time.monotonic() - before
    said = log.read_text(encoding="utf-8")[-3000:]
    return {
        "exit": code,
        "seconds": seconds,
        "saved": newest_whole(run),
        "left": outliving([child.pid], 2),
        "said": said,
    }
