"""The process that is killed: it estimates a small run, trains it, notes what that took, and ends like a power cut.

`python -m ditkit.selftest.killed PLAN`, the plan being JSON: device, dtype, kernels, threads, and the folder.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from ..errors import DitkitError
from ..estimation.report import estimate
from ..events import Event, Stepped
from ..io.atomic import write_atomically
from ..runtime.device import memory_mb
from ..runtime.memory import system_text
from ..runtime.threads import keep_memory
from ..training.loop import train
from ..training.step import SpeedOptions
from .subject import HALF, Subject

KILLED_AT = HALF + 3  # a step between two checkpoints
NOTES = "killed.json"
_SECONDS = 2.0  # of steps for the estimate


def main(plan: dict[str, Any]) -> None:
    """Estimate, train, note, and kill this process in the middle of the run."""
    keep_memory()
    torch.set_num_threads(plan["threads"])
    os.environ["DITKIT_KERNELS"] = plan["kernels"]
    folder, device = Path(plan["folder"]), torch.device(plan["device"])
    subject = Subject(device, folder, folder)
    report = estimate(
        subject.config,
        datasets=subject.datasets,
        folder=folder,
        device=plan["device"],
        dtype=plan["dtype"],
        seconds=_SECONDS,
    )
    seconds: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, Stepped):
            seconds.append(subject.config.train.batch_size / event.images_per_second)
            if event.step == KILLED_AT:
                notes = {**_estimated(report, device), "memory": peak(device), "step": statistics.median(seconds)}
                write_atomically(folder / NOTES, json.dumps(notes))
                kill()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    speed = SpeedOptions(compile="off", kernels=plan["kernels"])
    train(
        subject.config,
        folder / "killed",
        listen,
        device=plan["device"],
        dtype=plan["dtype"],
        speed=speed,
        datasets=subject.datasets,
    )


def _estimated(report: dict[str, Any], device: torch.device) -> dict[str, float]:
    """What was estimated of what is measured: on a GPU torch's own memory alone, without what the driver takes."""
    memory, time = report["memory"], report["time"]
    of_driver = memory["process"] if device.type == "cuda" else 0
    # No time is estimated of what would not fit.
    return {"estimated_memory": memory["total"] - of_driver, "estimated_step": time["step"] if time else 0.0}


def peak(device: torch.device) -> float:
    """Bytes that this process took at most; 0 where the system does not say."""
    # Not from getrusage, whose peak is no less than that of the process which started this one.
    lines = system_text(Path("/proc/self/status")).splitlines() if device.type == "cpu" else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return kilobytes[0] * 1024.0 if kilobytes else memory_mb(device) * 2**20


def kill() -> None:
    """End this process at once, without any clean-up."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows SIGTERM ends it as abruptly


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except DitkitError as wrong:
        sys.exit(wrong.message)
