"""A run's folder: its files, finding the newest, starting or continuing it, and the lock."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import manifest, recipes
from .config import RunConfig, differences
from .durable import is_litter, make_folder, write_atomically
from .errors import BusyError, CheckpointError, MachineError, UsageError, unknown
from .metrics import read_metrics
from .paths import expanded, try_lock

# What may differ when a run continues: it changes neither the network nor what a step computes.
_FREE = ("train.steps", "train.log_every", "train.save_every", "train.sample_every", "train.sample_columns")
_FREE += ("train.validate_every", "train.keep", "train.accumulate", "train.spike", "train.max_skips")
_FREE += ("train.rollbacks", "data.worker", "data.max_bad", "data.path", "data.label_file", "sample.")
_FREE += ("autoencoder.source",)

# What may differ only when the user insists: the run goes on, but is no longer one that settings alone repeat.
_FORCED = ("optim.", "train.batch_size", "data.flip", "data.validation", "diffusion.label_drop", "diffusion.weighting")
_FORCED += (
    "diffusion.min_snr_gamma",
    "diffusion.timestep_sampling",
    "diffusion.logit_",
    "diffusion.stratified",
    "seed",
)
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
IMAGES = "images"  # stands for the files of the dataset


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
    def incidents_file(self) -> Path:
        return self.path / "incidents.jsonl"

    @property
    def bad_files(self) -> Path:
        return self.path / "bad_files.txt"

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
        write_atomically(self.config_file, recipes.dump(config))

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:07d}"

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending (contents not yet verified)."""
        if not self.checkpoints.is_dir():
            return []
        found = (re.fullmatch(r"step-(\d{7,12})", path.name) for path in self.checkpoints.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def newest_whole(self, name: str, on_damage: Callable[[Path], None] = lambda _path: None) -> Path | None:
        """The newest checkpoint whose file `name` is as its manifest says; None if there is no checkpoint.

        Newer, damaged ones are reported. Raises CheckpointError when all are damaged, or the newest is too new.
        """
        damaged: list[CheckpointError] = []
        for step in reversed(self.checkpoint_steps()):
            try:
                manifest.read_file(self.checkpoint(step), name)
            except manifest.NewerFormat:
                raise
            except CheckpointError as error:
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
        named = ((re.fullmatch(r"step-(\d{7,12})", path.stem), path) for path in self.samples.glob("step-*.png"))
        return sorted((int(match[1]), path) for match, path in named if match)

    def metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.metrics_file, self.timing_file)


def runs_dir(given: Path | None = None) -> Path:
    """Where runs live: --runs-dir, else DITKIT_RUNS, else ./runs."""
    return expanded(given or os.environ.get("DITKIT_RUNS") or "runs")


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
        raise UsageError(f"there is no run in {runs}", "train one with `ditkit train mnist`, or name its folder")
    return RunFolder(runs / names[0])


def find_run(word: str | None, runs: Path) -> RunFolder:
    """A run by name or by path; the newest for None. Raises UsageError for one that is not there."""
    if word is None:
        return newest_run(runs)
    for path in (runs / word, expanded(word)):
        if RunFolder(path).is_run():
            return RunFolder(path)
    if not run_names(runs):
        raise UsageError(f"there is no run {word!r} in {runs}", "train one with `ditkit train mnist`")
    raise unknown("run", word, run_names(runs))


def find_weights(
    word: str | None, runs: Path, *, ema: bool = True, on_damage: Callable[[Path], None] = lambda _path: None
) -> Path:
    """The weights file that a run, a checkpoint folder or a file stands for.

    For a run that is its newest whole checkpoint's; newer, damaged ones are reported. Raises CheckpointError if there
    is none, UsageError for a word that names nothing.
    """
    name = "ema.safetensors" if ema else "model.safetensors"
    path = expanded(word) if word else None
    if path and path.is_file():
        if path.suffix.lower() in PICKLES:
            raise CheckpointError(
                f"{path} may be a pickle, which can run any code when opened; ditkit reads .safetensors",
                "give a run, a checkpoint folder or a .safetensors file",
            )
        if path.suffix != ".safetensors":
            raise UsageError(f"{path} is not a .safetensors file", "give a run, a checkpoint folder or a weights file")
        sibling = path.with_name(name)
        return sibling if not ema and path.name == "ema.safetensors" and sibling.is_file() else path
    if path and ((path / name).is_file() or manifest.is_checkpoint(path)):
        return path / name
    run = find_run(word, runs)
    newest = run.newest_whole(name, on_damage)
    if newest is None:
        raise CheckpointError(
            f"{run.path} has no checkpoint yet", "one is written every train.save_every steps, and when training stops"
        )
    return newest / name


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run folder that is ready to be trained in."""

    folder: RunFolder
    config: RunConfig
    step: int  # steps already done

    @property
    def finished(self) -> bool:
        return self.step >= self.config.train.steps


def prepare(config: RunConfig, path: Path, *, fresh: bool = False, force_change: Collection[str] = ()) -> Prepared:
    """Start a run in `path`, or continue the one that is there.

    With `fresh`, an existing run is left alone and the next free name (`mnist-2`) is used. `force_change` names
    settings that may differ from the run's. Raises UsageError when the run that is there has other settings or the
    folder is something else, MachineError when it cannot be written.
    """
    folder = RunFolder(path)
    if fresh and folder.is_run():
        folder = RunFolder(_free_name(path))
    if folder.is_run():
        return _continue(config, folder, force_change)
    where = folder.path
    if where.exists() and (not where.is_dir() or not all(is_litter(path) for path in where.iterdir())):
        raise UsageError(f"{where} exists and is not a run of ditkit", "choose another place with --name or --runs-dir")
    try:
        make_folder(folder.path)
        folder.write_config(config)
    except OSError as error:
        raise MachineError(f"cannot write to {folder.path}: {error.strerror}", "choose another --runs-dir") from None
    return Prepared(folder=folder, config=config, step=0)


def _continue(config: RunConfig, folder: RunFolder, force_change: Collection[str]) -> Prepared:
    changed = differences(folder.read_config(), config)
    fixed = {key: pair for key, pair in changed.items() if not key.startswith(_FREE)}
    refused = {key: pair for key, pair in fixed.items() if key not in force_change or not key.startswith(_FORCED)}
    if refused:
        listed = ", ".join(f"{key} = {old!r} (now {new!r})" for key, (old, new) in list(refused.items())[:4])
        hint = f"continue it with `ditkit train {folder.path}` (its own settings); --fresh or --name starts another"
        if all(key.startswith(_FORCED) for key in refused):
            hint += "; or change it with " + " ".join(f"--force-change {key}" for key in refused)
        raise UsageError(f"{folder.path} was started with {listed}", hint)
    step = folder.last_step()  # other settings are written once the run goes on with them
    if step >= config.train.steps:  # nothing more to do, so be sure of it
        step = step if manifest.is_whole(folder.checkpoint(step)) else 0
    return Prepared(folder=folder, config=config, step=step)


def check_force_change(keys: Collection[str]) -> None:
    """Raise UsageError for a setting that cannot change in the middle of a run."""
    for key in keys:
        if key != IMAGES and not key.startswith((*_FREE, *_FORCED)):
            raise UsageError(
                f"--force-change: {key} cannot change in the middle of a run",
                f"what can: {IMAGES}, {', '.join(f'{one}…' if one.endswith(('.', '_')) else one for one in _FORCED)}",
            )


def sweep(folder: RunFolder) -> None:
    """Remove what a crash or pruning left behind; failing to is harmless."""
    for pattern in (".tmp-*", ".trash-*"):
        for path in folder.checkpoints.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for path in (*folder.path.glob(".*.tmp"), *folder.samples.glob(".*.tmp")):
        if is_litter(path):
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def lock(folder: RunFolder) -> Iterator[None]:
    """One process per run folder; the lock goes with the process. Raises DitkitError naming the holder."""
    file = (folder.path / "run.lock").open("a+", encoding="utf-8")
    try:
        if not try_lock(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BusyError(f"{folder.path} is in use by {holder}", "wait for it, or use another --name")
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
    finally:
        file.close()


def _age(folder: RunFolder) -> tuple[float, str]:
    """When the run was last worked on."""
    touched = [file.stat().st_mtime for file in (folder.config_file, folder.metrics_file) if file.exists()]
    return max(touched), folder.path.name


def _free_name(path: Path) -> Path:
    number = 2
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate
