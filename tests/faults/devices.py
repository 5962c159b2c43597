"""Runs of two processes that share weights, or lose one of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import ending, finish, litter, preload, words, write_digits
from patience import scaled
from processes import start, wait_for_rows

LONG = {"train.steps": 50, "train.sample_every": 50, "train.validate_every": 25, "train.batch_size": 9}


def can_shard() -> bool:
    """Whether torch is as new as --shard needs it."""
    from torch.distributed.fsdp import FSDPModule

    return hasattr(FSDPModule, "set_force_sum_reduction_for_comms")


def sharded(folder: str, steps: int = LONG["train.steps"]) -> dict[str, Any]:
    """`steps` by one process, by two, by two that shard, and all fifty resumed."""
    preload()
    place = Path(folder)
    digits = write_digits(place / "digits")
    found: dict[str, Any] = {"codes": {}, "losses": {}, "ends": {}}

    def train(name: str, size: int, *more: str, **settings: Any) -> None:
        settings = {**LONG, "train.accumulate": 3, "train.steps": steps, **settings}
        children = start(place, digits, name, size, settings, more)
        found["codes"].setdefault(name, []).append([finish(child, 100) for child in children])

    train("one", 1)
    train("two", 2)
    train("sharded", 2, "--shard")
    if steps == LONG["train.steps"]:
        _resumed(train)
    for run in sorted((place / "runs").iterdir()):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        found["losses"][run.name] = [row[key] for key in ("loss", "grad_norm") for row in rows if key in row]
        found["losses"][run.name] += [row["validation_loss"] for row in rows if "validation_loss" in row]
        found["ends"][run.name] = ending(run)
        assert litter(run) == [], litter(run)
    found["said"] = said(place)
    return found


def _resumed(train: Callable[..., None]) -> None:
    """The same run in parts: as it was, with and without shards, on one process, and in bfloat16."""
    train("parts", 2, "--shard", **{"train.steps": 21})
    train("parts", 2, "--shard")
    train("mixed", 2, "--shard", **{"train.steps": 15})
    train("mixed", 1, **{"train.steps": 30})
    train("mixed", 2, "--shard", **{"train.steps": 40})
    train("mixed", 2)
    train("bfloat16", 2, "--shard", "--dtype", "bfloat16", **{"train.steps": 9})


def failing(folder: str) -> dict[str, Any]:
    """One of two processes fails or is killed, and nobody tells the other one but ditkit."""
    preload()
    place = Path(folder)
    digits = write_digits(place / "digits")
    found: dict[str, Any] = {"codes": {}, "seconds": {}, "steps": {}}

    def run(name: str, *more: str, fault: int = -1, **settings: Any) -> list[int]:
        return start(place, digits, name, 2, {"train.save_every": 1000, **settings}, more, fault)

    def ended(name: str, children: list[int]) -> None:
        began = time.monotonic()
        found["codes"][name] = [finish(child, 60) for child in children]
        found["seconds"][name] = time.monotonic() - began
        kept = sorted(path.name for path in (place / "runs" / name).glob("checkpoints/step-*"))
        found["steps"][name] = kept

    ended("whole", run("whole"))
    for name, rank, more in (("leader", 0, ()), ("other", 1, ()), ("shards", 1, ("--shard",))):
        ended(name, run(name, *more, fault=rank))
    children = run("killed", **{"train.steps": 20_000})
    wait_for_rows(place / "runs/killed/metrics.jsonl", 5)
    os.kill(children[1], signal.SIGKILL)
    ended("killed", children)
    found["said"] = said(place)
    return found


def relaunched(folder: str, kernels: str) -> dict[str, Any]:
    """torchrun starts two processes again after the second and then the first were killed; and never killed."""
    preload()
    os.environ["DITKIT_KERNELS"] = kernels
    place = Path(folder)
    digits = write_digits(place / "digits")
    settings = {"train.steps": 60, "train.save_every": 20, "train.validate_every": 20}
    straight = [finish(child, 100) for child in start(place, digits, "straight", 2, settings)]
    line = [word for word in words(place / "runs/killed", digits, settings) if word != "--quiet"] + ["--threads", "1"]
    with launched(place / "killed.log", ["--nproc-per-node=2", "--max-restarts=3", "-m", "ditkit", *line]) as launcher:
        for rank, rows in ((1, 8), (0, 30)):
            wait_for_rows(place / "runs/killed/metrics.jsonl", rows, 120)
            os.kill(rank_of(launcher.pid, rank), signal.SIGKILL)
        code = launcher.wait(scaled(120))
    line += ["--device", "cuda:9"]
    with launched(place / "wrong.log", ["--nproc-per-node=2", "-m", "ditkit", *line]) as launcher:
        codes = {"straight": straight, "killed": code, "wrong": launcher.wait(scaled(120))}
    ends = {run.name: ending(run) for run in (place / "runs").iterdir()}
    logs = {name: (place / f"{name}.log").read_text(encoding="utf-8") for name in ("killed", "wrong")}
    return {"codes": codes, "ends": ends, "said": logs}


@contextlib.contextmanager
def launched(log: Path, line: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun on one machine, through a port that is free."""
    with log.open("wb") as output:
        whole = [sys.executable, "-m", "torch.distributed.run", "--standalone", *line]
        launcher = subprocess.Popen(whole, stdout=output, stderr=output)
        try:
            yield launcher
        finally:
            launcher.terminate()
            launcher.wait()


def rank_of(launcher: int, rank: int) -> int:
    """The process of a rank among a launcher's children."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text(encoding="ascii").split():
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError(f"rank {rank} does not run")


def said(place: Path) -> dict[str, list[str]]:
    """What the processes of each run have said, by rank."""
    logs: dict[str, list[str]] = {}
    for path in sorted(place.glob("*-[01].log")):
        logs.setdefault(path.stem.rpartition("-")[0], []).append(path.read_text(encoding="utf-8"))
    return logs
