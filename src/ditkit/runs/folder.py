"""RunFolder: which file lies where; its lock."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..errors import BusyError, CheckpointError, MachineError, UsageError
from ..io.atomic import is_leftover, write_atomically
from ..io.locks import try_lock
from ..io.paths import expanded, make_free_folder
from ..io.reading import read_json
from ..io.text import shell_words
from . import manifest
from .metrics import read_metrics
from .stored import config_text, read_config

LOCK = "run.lock"


class _Inside:
    """A path inside a run's folder."""

    def __init__(self, name: str):
        self._name = name

    def __get__(self, run: RunFolder, _owner: object) -> Path:
        return run.path / self._name


@dataclass(frozen=True)
class RunFolder:
    """Which file of a run lies where; nothing is created by naming it."""

    path: Path

    config_file = _Inside("config.toml")
    metrics_file = _Inside("metrics.jsonl")
    timing_file = _Inside("timing.jsonl")
    incidents_file = _Inside("incidents.jsonl")
    bad_files = _Inside("bad_files.txt")
    import_file = _Inside("imported.json")
    evaluation_file = _Inside("evaluation.json")
    checkpoints = _Inside("checkpoints")
    samples = _Inside("samples")
    snapshots = _Inside("snapshots")
    averages = _Inside("averages")
    first_weights = _Inside("init_from.safetensors")

    def is_run(self) -> bool:
        return self.config_file.is_file()

    def is_imported(self) -> bool:
        """Whether its weights come from elsewhere, so that there is nothing to continue."""
        return self.is_run() and self.import_file.is_file()

    def imported_from(self) -> dict[str, str]:
        """`origin` and `source` of an imported model, in words; empty for other runs."""
        try:
            return {key: str(value) for key, value in read_json(self.import_file).items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def is_foreign(self) -> bool:
        """Whether another project trained it: not so where a model of ditkit's was fetched."""
        origin = self.imported_from().get("origin", "")
        return bool(origin) and not origin.startswith("a model of ditkit")

    def check_continues(self) -> None:
        """Raise UsageError for an imported model."""
        if self.is_imported():
            raise UsageError(
                f"{self.path} was imported: it has no optimiser state to continue with",
                "begin a new run with its weights: "
                f"`ditkit train … --name NEW --init-from {shell_words(self.path.name)}`",
            )

    def read_config(self) -> RunConfig:
        """The run's resolved settings. Raises DitkitError when the file is missing or edited into nonsense."""
        try:
            return _parse_config(self.config_file, _version(self.config_file))
        except UsageError as error:
            where = "" if str(self.config_file) in error.message else f"{self.config_file}: "
            raise UsageError(where + error.message, error.hint) from None

    def write_config(self, config: RunConfig) -> None:
        write_atomically(self.config_file, config_text(config))
        _parse_config.cache_clear()  # an inode may be used again within the resolution of the clock

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:07d}"

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending (contents not yet verified)."""
        if not self.checkpoints.is_dir():
            return []
        names = (re.fullmatch(r"step-(\d{7,12})", path.name) for path in self.checkpoints.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def newest_whole(self, name: str, on_damage: Callable[[Path], None] = lambda _path: None) -> Path | None:
        """The newest checkpoint whose file `name` is as its manifest says; None if there is no checkpoint.

        Newer, damaged ones are reported. Raises CheckpointError when all are damaged, or the newest is too new.
        """
        damaged: list[CheckpointError] = []
        for step in reversed(self.checkpoint_steps()):
            try:
                manifest.read_file(self.checkpoint(step), name)
            except (manifest.NewerFormat, manifest.NotThere):
                raise
            except CheckpointError as error:
                if not self.checkpoint(step).exists():  # the run trains on, and has just removed its oldest
                    return self.newest_whole(name, on_damage)
                damaged.append(error)
                on_damage(self.checkpoint(step))
                continue
            return self.checkpoint(step)
        if damaged:
            raise CheckpointError(
                f"no checkpoint of {self.path} is undamaged: {damaged[0].message}",
                "restore its files from a copy, or start another run with --fresh",
            )
        return None

    def last_step(self) -> int:
        """Steps done according to `newest_whole`, which may raise; 0 without a checkpoint."""
        newest = self.newest_whole("state.json")
        return int(newest.name.removeprefix("step-")) if newest else 0

    def sample_grids(self) -> list[tuple[int, Path]]:
        """(step, PNG) of every sample grid, ascending."""
        names = ((re.fullmatch(r"step-(\d{7,12})", path.stem), path) for path in self.samples.glob("step-*.png"))
        return sorted((int(name[1]), path) for name, path in names if name)

    def last_change(self) -> tuple[float, str]:
        """When the run was last worked on, to sort runs by."""
        touched = [file.stat().st_mtime for file in (self.config_file, self.metrics_file) if file.exists()]
        return max(touched), self.path.name

    def metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.metrics_file, self.timing_file)


@lru_cache(maxsize=4)
def _parse_config(path: Path, _version: tuple[int, ...]) -> RunConfig:
    """The settings in a file, which is read again only when it is another version."""
    return read_config(path)


def _version(path: Path) -> tuple[int, ...]:
    """What changes whenever a file is written or replaced; nothing where there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def runs_dir(path: Path | None = None) -> Path:
    """The folder of runs: --runs-dir, else DITKIT_RUNS, else ./runs."""
    return expanded(path or os.environ.get("DITKIT_RUNS") or "runs")


def run_of(weights: Path) -> RunFolder | None:
    """The run that a weights file is part of: one of a checkpoint, or an average that was made after training."""
    folder = weights.resolve().parent.parent
    run = RunFolder(folder.parent)
    return run if folder in (run.checkpoints, run.averages) and run.is_run() else None


def remove_leftovers(folder: RunFolder) -> None:
    """Remove what a crash or pruning left behind, and what a run that has saved needs no more; failing is harmless."""
    for pattern in (".tmp-*", ".trash-*"):
        for path in folder.checkpoints.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for path in (*folder.path.glob(".*.tmp"), *folder.samples.glob(".*.tmp"), *folder.snapshots.glob(".*.tmp")):
        if is_leftover(path):
            with contextlib.suppress(OSError):
                path.unlink()
    if folder.checkpoint_steps():
        with contextlib.suppress(OSError):
            folder.first_weights.unlink(missing_ok=True)


def cannot_write(folder: RunFolder, error: OSError) -> MachineError:
    return MachineError(f"cannot write to {folder.path}: {error.strerror}", "choose another --runs-dir")


_locked: dict[Path, int] = {}  # folders that this process has locked: descriptors of their run.lock


@contextlib.contextmanager
def lock(folder: RunFolder) -> Iterator[None]:
    """One process per run folder; the lock goes with the process. Raises BusyError naming the holder, MachineError."""
    try:
        file = (folder.path / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise cannot_write(folder, error) from None
    with file:
        if try_lock(file.fileno()) is False:  # None: a file system without locks
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BusyError(f"{folder.path} is in use by {holder}", "wait for it, or use another --name")
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        path, outer = folder.path.absolute(), dict(_locked)
        _locked[path] = file.fileno()
        try:
            yield
        finally:
            _locked.pop(path)
            if path in outer:  # of a folder that was there before, whose run this process trains, too
                _locked[path] = outer[path]


def is_ours(folder: RunFolder) -> bool:
    """Whether a folder still is the one that this process locked: not moved, removed or replaced since.

    A process that trains goes on for hours under a path; whatever has that path by then may be another run.
    """
    descriptor = _locked.get(folder.path.absolute())
    if descriptor is None:
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), (folder.path / LOCK).stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def check_ours(folder: RunFolder) -> None:
    """Raise FolderLostError if the folder is no longer the one that this process locked."""
    if not is_ours(folder):
        raise FolderLostError(folder)


class FolderLostError(MachineError):
    """The folder of a run is not where the run began: what has its path now must not be written to."""

    def __init__(self, folder: RunFolder, hint: str | None = None):
        super().__init__(f"{folder.path} was moved, removed or replaced while it was trained", hint)


def rescue_folder(folder: RunFolder, config: RunConfig) -> RunFolder:
    """A new run beside a folder that is lost, with its settings, to save the steps of this process in."""
    rescue = RunFolder(make_free_folder(folder.path.with_name(f"{folder.path.name}-rescued")))
    rescue.write_config(config)
    return rescue
