"""kill -9 at random moments: how many runs are lost, with ditkit and with Hugging Face accelerate's `save_state`.

    pip install accelerate        # besides ditkit
    python benchmarks/kill_accelerate.py --kills 60

The same network, batch and save interval, and the same harness: a process that trains and saves after every second
step is killed at a moment drawn uniformly from the length of the run, and started again. It resumes from the newest
checkpoint as the library's documentation says (`load_state()` without a path). Saving takes most of such a run, so the
rates are those of a stress test: they show what can happen, not how often. After a resume that crashed, the newest
folder is removed, as a user would do, and the program is started again.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

import harness

STEPS, SAVE_EVERY, BATCH = 24, 2, 8
SETTINGS = {"train.steps": STEPS, "train.save_every": SAVE_EVERY, "train.batch_size": BATCH}
CRASHED = 3  # exit code of a process that could not resume


@dataclass(frozen=True)
class System:
    """Something that trains, saves and continues."""

    name: str
    train: Callable[[Path], int]  # starts or resumes in a folder; returns an exit code
    saves: Callable[[Path], list[Path]]  # the folders that look like checkpoints, oldest first
    load: Callable[[Path, Path], int]  # 0 if a checkpoint of a run can be loaded


def save_marker(run: Path) -> Path:
    """A file that exists once the first save has returned."""
    return run.with_suffix(".saved")


def ditkit(digits: Path, keep: int) -> System:
    settings = {**SETTINGS, "train.keep": keep, "train.validate_every": STEPS, "data.validation": 0}

    def load(run: Path, checkpoint: Path) -> int:
        from ditkit.checkpoint.loading import load

        load(checkpoint)
        return 0

    def train(run: Path) -> int:
        from ditkit.checkpoint import store

        save = store.save

        def save_and_mark(*args: Any, **kwargs: Any) -> Path:
            path = save(*args, **kwargs)
            save_marker(run).touch()
            return path

        store.save = save_and_mark
        return harness.command(harness.words(run, digits, settings))()

    return System(
        f"ditkit, train.keep={keep}",
        train,
        lambda run: sorted(run.glob("checkpoints/step-*")),
        load,
    )


class Progress:
    """The step and the averaged weights, registered for checkpointing."""

    def __init__(self, network: Any):
        self.step, self.average = 0, {name: value.clone() for name, value in network.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.average = state["step"], state["average"]


def accelerate(digits: Path, limit: int) -> System:
    def prepare(run: Path) -> Any:
        import torch
        from accelerate import Accelerator
        from accelerate.utils import ProjectConfiguration

        from ditkit.checkpoint.loading import build_network

        project = ProjectConfiguration(project_dir=str(run), automatic_checkpoint_naming=True, total_limit=limit)
        accelerator = Accelerator(cpu=True, project_config=project)
        network = build_network(harness.config(digits, SETTINGS), 10)
        network, optimizer = accelerator.prepare(network, torch.optim.AdamW(network.parameters(), lr=1e-4))
        progress = Progress(network)
        accelerator.register_for_checkpointing(progress)
        return accelerator, network, optimizer, progress

    def checkpoints(run: Path) -> list[Path]:
        return sorted(run.glob("checkpoints/checkpoint_*"), key=lambda path: int(path.name.rpartition("_")[2]))

    def train(run: Path) -> int:
        import torch

        accelerator, network, optimizer, progress = prepare(run)
        if checkpoints(run):
            try:
                accelerator.load_state()
            except Exception as error:
                print(f"resume crashed: {type(error).__name__}: {error}")
                return CRASHED
            accelerator.project_configuration.iteration = int(checkpoints(run)[-1].name.rpartition("_")[2]) + 1
        while progress.step < STEPS:
            source = torch.Generator().manual_seed(progress.step)
            x_BCHW = torch.randn(BATCH, 1, 28, 28, generator=source)
            time_B, label_B = torch.rand(BATCH, generator=source) * 1000, torch.zeros(BATCH, dtype=torch.long)
            loss = (network(x_BCHW, time_B, label_B) - x_BCHW).square().mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            progress.step += 1
            for name, value in network.state_dict().items():
                progress.average[name] = 0.999 * progress.average[name] + 0.001 * value
            if progress.step % SAVE_EVERY == 0:
                accelerator.save_state()
                save_marker(run).touch()
        return 0

    def load(run: Path, checkpoint: Path) -> int:
        accelerator, *_ = prepare(run)
        accelerator.load_state(str(checkpoint))
        return 0

    return System(f"accelerate, total_limit={limit}", train, checkpoints, load)


def judge(system: System, folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill `kills` times, and count kills, runs, lost runs and crashed resumes."""
    source, log = random.Random(seed), folder / "log"
    folder.mkdir()
    before = time.monotonic()
    assert harness.finish(harness.fork(lambda: system.train(folder / "straight"), log)) == 0, log.read_text("utf-8")
    life = time.monotonic() - before
    counts = {"kills": 0, "runs": 0, "lost": 0, "crashed": 0}
    while counts["kills"] < kills:
        run = folder / f"run-{counts['runs']}"
        run.mkdir()
        counts["runs"] += 1
        _one_run(system, run, log, source, life, kills, counts)
        shutil.rmtree(run)
    return counts


def _one_run(
    system: System, run: Path, log: Path, source: random.Random, life: float, kills: int, counts: dict[str, int]
) -> None:
    while True:
        child = harness.fork(lambda: system.train(run), log)
        code = harness.ended(child, source.uniform(0, life) if counts["kills"] < kills else harness.LONGEST)
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            counts["kills"] += 1
        if code == 0:
            return
        saves = system.saves(run)
        if save_marker(run).exists() and not any(_loads(system, run, checkpoint, log) for checkpoint in saves):
            counts["lost"] += 1
            return
        if code is not None:  # it ended by itself, with an error
            counts["crashed"] += 1
            shutil.rmtree(saves[-1], ignore_errors=True)


def _loads(system: System, run: Path, checkpoint: Path, log: Path) -> bool:
    return harness.finish(harness.fork(lambda: system.load(run, checkpoint), log)) == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    harness.preload()
    try:
        import accelerate as library
    except ImportError:
        sys.exit("this compares with accelerate, which is not installed: pip install accelerate")
    import torch

    with tempfile.TemporaryDirectory() as folder:
        digits = harness.write_digits(Path(folder) / "digits")
        systems = [*(ditkit(digits, keep) for keep in (1, 2)), *(accelerate(digits, limit) for limit in (1, 2))]
        print(f"accelerate {library.__version__}, torch {torch.__version__}, save after every {SAVE_EVERY} steps\n")
        print("| | kills | runs | runs left without a loadable checkpoint | resumes that crashed |")
        print("|---|---|---|---|---|")
        for index, system in enumerate(systems):
            counts = judge(system, Path(folder) / str(index), options.kills, options.seed)
            row = (counts["kills"], counts["runs"], counts["lost"], counts["crashed"])
            print(f"| {system.name} | " + " | ".join(str(number) for number in row) + " |", flush=True)


if __name__ == "__main__":
    main()
