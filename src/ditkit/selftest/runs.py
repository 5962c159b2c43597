"""A small run on this device, trained through, stopped and resumed, killed and resumed: all end in the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.loading import read_tensors
from ..errors import MachineError
from ..events import Event, OnEvent, Started, Stepped
from ..io.paths import cache_dir
from ..kernels.choice import name
from ..runs.folder import RunFolder
from ..training.loop import train
from ..training.step import SpeedOptions
from .findings import Differs, NotTried
from .killed import KILLED_AT, NOTES
from .subject import HALF, Subject

_TENSORS = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
_SECONDS = 90  # that a process may take until it ends itself
_INEXACT = "runs that are resumed here are as good, but not the same to the last bit"
_RESUMING = "report it; until then let runs on this machine end without a stop"

Ending = dict[str, Tensor]  # tensors by file and name


class Runs:
    """The runs of a subject, each trained once."""

    def __init__(self, subject: Subject):
        self.subject = subject
        self.straight = cache(self._straight)
        self.notes: dict[str, float] = {}  # of the process that is killed, once it was

    def steps_hold(self, dtype: torch.dtype) -> str:
        """Train through in a dtype; the losses of the first and of the last step."""
        first, last = self.straight(name(dtype))[1]
        return f"loss {first:.3g} to {last:.3g}"

    def resumed_holds(self) -> str:
        """Stop halfway, resume, and compare the end with that of the run that never stopped."""
        folder = self.subject.folder / "resumed"
        self._train(folder, self.subject.dtype, stop_at=HALF)
        stopped = RunFolder(folder).last_step()
        if stopped != HALF:
            raise Differs(f"stopped after step {HALF}, saved at step {stopped}", _RESUMING)
        self._train(folder, self.subject.dtype)
        return self._compared(folder, f"{HALF} + {HALF} steps:")

    def killed_holds(self) -> str:
        """Kill a process in the middle of a run, resume it here, and compare the end."""
        self.notes = self._killed()
        folder = self.subject.folder / "killed"
        kept = RunFolder(folder).last_step()
        if kept != HALF:
            raise Differs(f"killed after step {KILLED_AT}, the newest checkpoint is of step {kept}", _RESUMING)
        self._train(folder, self.subject.dtype)
        return self._compared(folder, f"killed after step {KILLED_AT}, resumed at {kept}:")

    def _killed(self) -> dict[str, float]:
        """What the process that kills itself has measured (see `killed`). Raises Differs if it ended otherwise."""
        subject = self.subject
        plan = {
            "device": str(subject.device),
            "dtype": subject.dtype,
            "kernels": self._kernels,
            "threads": torch.get_num_threads(),
            "folder": str(subject.folder),
        }
        command = [sys.executable, "-m", "ditkit.selftest.killed", json.dumps(plan)]
        nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=nothing, stdout=nothing, stderr=pipe, env=_environment(), cwd=subject.folder
        )
        try:
            _, said = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise NotTried(f"a process of its own did not come to step {KILLED_AT} in {_SECONDS} seconds") from None
        finally:  # also after Ctrl-C
            process.kill()
            process.communicate()
        notes = subject.folder / NOTES
        if not notes.is_file():
            lines = said.decode("utf-8", "replace").split("\n")
            why = ([line for line in lines if line.strip()] or ["without a word"])[-1]
            raise Differs(f"a process of its own ended with {process.returncode}: {why}", "mend that, or report it")
        return json.loads(notes.read_text(encoding="utf-8"))

    @property
    def _kernels(self) -> str:
        return "on" if self.subject.compute.kernels else "off"

    def _straight(self, dtype: str, again: bool = False) -> tuple[Ending, tuple[float, float]]:
        """How a run ends that never stops, and its first and last loss."""
        losses: list[float] = []

        def listen(event: Event) -> None:
            if isinstance(event, Stepped):
                losses.append(event.loss)

        folder = self.subject.folder / f"straight-{dtype}{'-again' if again else ''}"
        self._train(folder, dtype, listen)
        return ending(folder), (losses[0], losses[-1])

    def _train(self, folder: Path, dtype: str, listen: OnEvent = lambda event: None, stop_at: int = 2 * HALF) -> None:
        step = 0

        def on_event(event: Event) -> None:
            nonlocal step
            step = event.step if isinstance(event, (Started, Stepped)) else step
            listen(event)

        kernels = self._kernels if dtype == self.subject.dtype else "off"
        train(
            self.subject.config,
            folder,
            on_event,
            device=str(self.subject.device),
            dtype=dtype,
            should_stop=lambda: step >= stop_at,
            speed=SpeedOptions(compile="off", kernels=kernels),
            datasets=self.subject.datasets,
        )

    def _compared(self, folder: Path, what: str) -> str:
        """Raise Differs unless a run ends in the bits of the one that never stopped."""
        dtype = self.subject.dtype
        right = self.straight(dtype)[0]
        off = distance(right, ending(folder))
        if not off:
            return f"{what} the same bits as {2 * HALF}"
        if self.subject.device.type != "cpu":
            usual = distance(right, self.straight(dtype, again=True)[0])
            if usual:
                raise NotTried(
                    f"this device does not repeat itself: {what} {off:.1e} off, two runs that never stopped by "
                    f"{usual:.1e}",
                    _INEXACT,
                )
        raise Differs(f"{what} {off:.1e} from {2 * HALF} steps", _RESUMING)


def _environment() -> dict[str, str]:
    """That of a process in another folder, where no file can stand in for a module, with this ditkit and its cache."""
    before = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]  # noqa: PTH100
    paths = [str(Path(__file__).resolve().parents[2]), *before]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "DITKIT_CACHE": str(cache_dir())}


def ending(folder: Path) -> Ending:
    """Weights, average and optimiser of a run's newest checkpoint. Raises MachineError if it did not end."""
    run = RunFolder(folder)
    step = run.last_step()
    if step != 2 * HALF:
        raise MachineError(f"the run ended at step {step} of {2 * HALF}")
    files = {file: read_tensors(run.checkpoint(step) / file) for file in _TENSORS}
    return {f"{file}/{key}": value for file, tensors in files.items() for key, value in tensors.items()}


def distance(right: Ending, got: Ending) -> float:
    """0 where all bits are equal, else the largest difference of a tensor, as a part of that tensor's norm."""
    if right.keys() != got.keys():
        return float("inf")
    off = [_distance(value, got[key]) for key, value in right.items() if not torch.equal(value, got[key])]
    return max(off, default=0.0)


def _distance(right: Tensor, got: Tensor) -> float:
    if right.shape != got.shape:
        return float("inf")
    off = float((right.double() - got.double()).norm() / max(float(right.double().norm()), 1e-30))
    return max(off, 1e-30) if off == off else float("inf")  # -0.0 and 0.0 differ in their bits
