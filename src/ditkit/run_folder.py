"""A run's folder: its files, finding the newest, starting or continuing it, and the lock."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import recipes
from .config import RunConfig, differences
from .errors import DitkitError, UsageError, unknown
from .metrics import read_metrics

CHECKPOINT_FILES = ("ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json")
MANIFEST = "manifest.json"

# What may differ when a run continues: it changes neither the network nor what a step computes.
_FREE = ("train.steps", "train.log_every", "train.save_every", "train.sample_every", "train.sample_columns")
_FREE += ("train.validate_every", "train.keep", "data.workers", "data.path", "sample.")


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what; nothing is created by naming it."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.toml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def timing_file(self) -> Path:
        return self.path / "timing.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def is_run(self) -> bool:
        return self.config_file.is_file()

    def read_config(self) -> RunConfig:
        """The run's resolved settings. Raises DitkitError when the file is missing or edited into nonsense."""
        try:
            return recipes.build(recipes.parse(self.config_file))
        except UsageError as error:
            where = "" if str(self.config_file) in error.message else f"{self.config_file}: "
            raise UsageError(where + error.message, error.hint) from None

    def write_config(self, config: RunConfig) -> None:
        _write_atomically(self.config_file, recipes.dump(config))

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:07d}"

    def checkpoint_steps(self) -> list[int]:
        """Steps with a completely written checkpoint, ascending (contents not yet verified)."""
        if not self.checkpoints.is_dir():
            return []
        found = (re.fullmatch(r"step-(\d{7,12})", path.name) for path in self.checkpoints.iterdir())
        steps = sorted(int(match[1]) for match in found if match)
        return [step for step in steps if (self.checkpoint(step) / MANIFEST).is_file()]

    def last_step(self) -> int:
        """Steps done according to the newest checkpoint; 0 without one."""
        return (self.checkpoint_steps() or [0])[-1]

    def sample_grids(self) -> list[tuple[int, Path]]:
        """(step, PNG) of every sample grid, ascending."""
        found = (re.fullmatch(r"step-(\d+)", path.stem) for path in self.samples.glob("step-*.png"))
        steps = sorted(int(match[1]) for match in found if match)
        return [(step, self.samples / f"step-{step:07d}.png") for step in steps]

    def metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.metrics_file, self.timing_file)


def runs_dir(given: Path | None = None) -> Path:
    """Where runs live: --runs-dir, else DITKIT_RUNS, else ./runs."""
    return given or Path(os.environ.get("DITKIT_RUNS") or "runs")


def run_names(runs: Path) -> list[str]:
    """Names of the runs in a folder, newest first."""
    if not runs.is_dir():
        return []
    folders = [RunFolder(path) for path in runs.iterdir() if RunFolder(path).is_run()]
    return [folder.path.name for folder in sorted(folders, key=_age, reverse=True)]


def newest_run(runs: Path) -> RunFolder:
    """The run that was worked on last. Raises DitkitError when there is none."""
    names = run_names(runs)
    if not names:
        raise DitkitError(f"there is no run in {runs}", "train one with `ditkit train mnist`, or name its folder")
    return RunFolder(runs / names[0])


def find_run(word: str | None, runs: Path) -> RunFolder:
    """A run by name or by path; the newest for None. Raises UsageError for one that is not there."""
    if word is None:
        return newest_run(runs)
    for path in (runs / word, Path(word)):
        if RunFolder(path).is_run():
            return RunFolder(path)
    if not run_names(runs):
        raise UsageError(f"there is no run {word!r} in {runs}", "train one with `ditkit train mnist`")
    raise unknown("run", word, run_names(runs))


def find_weights(word: str | None, runs: Path, *, ema: bool = True) -> Path:
    """The weights file that a run, a checkpoint folder or a file stands for. Raises DitkitError if there is none."""
    name = "ema.safetensors" if ema else "model.safetensors"
    path = Path(word) if word else None
    if path and path.is_file():
        if path.suffix != ".safetensors":
            raise UsageError(f"{path} is not a .safetensors file", "give a run, a checkpoint folder or a weights file")
        sibling = path.with_name(name)
        return sibling if not ema and path.name == "ema.safetensors" and sibling.is_file() else path
    if path and (path / name).is_file():
        return path / name
    run = find_run(word, runs)
    steps = run.checkpoint_steps()
    if not steps:
        raise DitkitError(
            f"{run.path} has no checkpoint yet", "one is written every train.save_every steps, and when training stops"
        )
    return run.checkpoint(steps[-1]) / name


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run folder that is ready to be trained in."""

    folder: RunFolder
    config: RunConfig
    step: int  # steps already done

    @property
    def finished(self) -> bool:
        return self.step >= self.config.train.steps


def prepare(config: RunConfig, path: Path, *, fresh: bool = False) -> Prepared:
    """Start a run in `path`, or continue the one that is there.

    With `fresh`, an existing run is left alone and the next free name (`mnist-2`) is used. Raises UsageError when the
    run that is there has other settings, DitkitError when the folder is something else or cannot be written.
    """
    folder = RunFolder(path)
    if fresh and folder.is_run():
        folder = RunFolder(_free_name(path))
    if folder.is_run():
        return _continue(config, folder)
    where = folder.path
    if where.exists() and (not where.is_dir() or any(where.iterdir())):
        raise DitkitError(
            f"{where} exists and is not a run of ditkit", "choose another place with --name or --runs-dir"
        )
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_config(config)
    except OSError as error:
        raise DitkitError(f"cannot write to {folder.path}: {error.strerror}", "choose another --runs-dir") from None
    return Prepared(folder=folder, config=config, step=0)


def _continue(config: RunConfig, folder: RunFolder) -> Prepared:
    changed = differences(folder.read_config(), config)
    fixed = {key: pair for key, pair in changed.items() if not key.startswith(_FREE)}
    if fixed:
        listed = ", ".join(f"{key} = {old!r} (now {new!r})" for key, (old, new) in list(fixed.items())[:4])
        raise UsageError(
            f"{folder.path} was started with {listed}",
            f"continue it with `ditkit train {folder.path}` (its own settings); --fresh or --name starts another",
        )
    if changed:
        folder.write_config(config)
    return Prepared(folder=folder, config=config, step=folder.last_step())


@contextlib.contextmanager
def lock(folder: RunFolder) -> Iterator[None]:
    """One process per run folder; the lock goes with the process. Raises DitkitError naming the holder."""
    file = (folder.path / "run.lock").open("a+", encoding="utf-8")
    try:
        if not _try_lock(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise DitkitError(f"{folder.path} is in use by {holder}", "wait for it, or use another --name")
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
    finally:
        file.close()


def _try_lock(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            import fcntl

            # lockf, not flock: worker processes inherit flock's lock and outlive a killed parent
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _age(folder: RunFolder) -> tuple[float, str]:
    """When the run was last worked on."""
    touched = [file.stat().st_mtime for file in (folder.config_file, folder.metrics_file) if file.exists()]
    return max(touched), folder.path.name


def _free_name(path: Path) -> Path:
    number = 2
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
