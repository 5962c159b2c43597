"""Starting a run in a folder, or continuing the one that is there, and what may differ then."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config import RunConfig, differences
from ..errors import MachineError, UsageError
from ..io.atomic import is_leftover, make_folder
from ..io.text import free_name
from . import manifest
from .folder import LOCK, RunFolder, lock

# Settings that may differ when a run continues: the network and the steps so far stay what they are.
# fmt: off
MAY_CHANGE = (
    "train.steps", "train.log_every", "train.save_every", "train.sample_every", "train.sample_columns",
    "train.validate_every", "train.evaluate_", "train.keep", "train.accumulate", "train.spike", "train.max_skips",
    "train.rollbacks", "data.worker", "data.max_bad", "data.path", "data.label_file", "sample.",
    "autoencoder.source",
)
# Settings that may differ only when the user insists: the run is no longer one that its settings alone repeat.
NEEDS_FORCE = (
    "optim.", "train.batch_size", "data.flip", "data.validation", "diffusion.label_drop", "diffusion.weighting",
    "diffusion.min_snr_gamma", "diffusion.timestep_sampling", "diffusion.logit_", "diffusion.stratified", "seed",
)
# fmt: on
IMAGES = "images"  # stands for the files of the dataset


@dataclass(frozen=True, kw_only=True)
class ClaimedRun:
    """A run whose folder is ready to be trained in, and locked."""

    folder: RunFolder
    config: RunConfig
    written: RunConfig  # what its config.toml says: other settings are written once the run goes on with them
    step: int  # steps already done

    @property
    def finished(self) -> bool:
        return self.step >= self.config.train.steps


@contextlib.contextmanager
def start_or_resume(
    config: RunConfig, path: Path, *, fresh: bool = False, force_change: Collection[str] = ()
) -> Iterator[ClaimedRun]:
    """Start a run in `path`, or continue the one that is there; the folder is locked until the block ends.

    Args:
        config: the settings to train with.
        path: the run's folder, made where it is missing.
        fresh: leave an existing run alone and take the next free name (`mnist-2`).
        force_change: settings that may differ from the run's.

    Raises:
        UsageError: the run that is there has other settings, or the folder is something else.
        BusyError: another process works on it.
        MachineError: the folder cannot be written.
    """
    folder = RunFolder(free_name(path) if fresh and RunFolder(path).is_run() else path)
    _check_usable(folder)
    try:
        make_folder(folder.path)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    with lock(folder):
        yield _resume(config, folder, force_change) if folder.is_run() else _start(config, folder)


def _check_usable(folder: RunFolder) -> None:
    """Raise UsageError for an imported model, and for a folder of something else, in which not even a lock may lie."""
    folder.check_continues()
    path = folder.path
    if folder.is_run() and not folder.checkpoints.exists():
        folder.read_config()  # another program's config.toml is refused here, before a lock lies beside it
    if folder.is_run() or not path.exists():
        return
    if not path.is_dir() or not all(is_leftover(file) or file.name == LOCK for file in path.iterdir()):
        raise UsageError(f"{path} exists and is not a run of ditkit", "choose another place with --name or --runs-dir")


def _cannot_write(folder: RunFolder, error: OSError) -> MachineError:
    return MachineError(f"cannot write to {folder.path}: {error.strerror}", "choose another --runs-dir")


def _start(config: RunConfig, folder: RunFolder) -> ClaimedRun:
    try:
        folder.write_config(config)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    return ClaimedRun(folder=folder, config=config, written=config, step=0)


def _resume(config: RunConfig, folder: RunFolder, force_change: Collection[str]) -> ClaimedRun:
    written = folder.read_config()
    changed = {key: pair for key, pair in differences(written, config).items() if not key.startswith(MAY_CHANGE)}
    refused = {k: pair for k, pair in changed.items() if k not in force_change or not k.startswith(NEEDS_FORCE)}
    if refused:
        listed = ", ".join(f"{key} = {old!r} (now {new!r})" for key, (old, new) in list(refused.items())[:4])
        again = f"ditkit train {shlex.quote(str(folder.path))}"
        hint = f"continue it with `{again}` (its own settings); --fresh or --name starts another"
        if all(key.startswith(NEEDS_FORCE) for key in refused):
            hint += "; or change it with " + " ".join(f"--force-change {key}" for key in refused)
        raise UsageError(f"{folder.path} was started with {listed}", hint)
    return ClaimedRun(folder=folder, config=config, written=written, step=steps_done(folder, config))


def steps_done(folder: RunFolder, config: RunConfig) -> int:
    """Steps that a run has done of those that are wanted: where nothing seems left to do, 0 unless that is sure."""
    step = folder.last_step()
    return step if step < config.train.steps or manifest.is_whole(folder.checkpoint(step)) else 0


def check_force_change(keys: Collection[str]) -> None:
    """Raise UsageError for a setting that cannot change in the middle of a run."""
    for key in keys:
        if key != IMAGES and not key.startswith((*MAY_CHANGE, *NEEDS_FORCE)):
            raise UsageError(
                f"--force-change: {key} cannot change in the middle of a run",
                f"what can: {IMAGES}, {', '.join(f'{key}…' if key[-1] in '._' else key for key in NEEDS_FORCE)}",
            )
