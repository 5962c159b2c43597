"""Starting a run in a folder, or continuing the one that is there, and what may differ then."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..config import RunConfig, differences
from ..errors import MachineError, UsageError
from ..io.atomic import is_leftover, make_folder
from . import manifest
from .folder import RunFolder

# What may differ when a run continues: the network and the steps so far stay what they are.
MAY_CHANGE = ("train.steps", "train.log_every", "train.save_every", "train.sample_every", "train.sample_columns")
MAY_CHANGE += (
    "train.validate_every",
    "train.evaluate_",
    "train.keep",
    "train.accumulate",
    "train.spike",
    "train.max_skips",
)
MAY_CHANGE += ("train.rollbacks", "data.worker", "data.max_bad", "data.path", "data.label_file", "sample.")
MAY_CHANGE += ("autoencoder.source",)

# What may differ only when the user insists: the run goes on, but is no longer one that settings alone repeat.
NEEDS_FORCE = (
    "optim.",
    "train.batch_size",
    "data.flip",
    "data.validation",
    "diffusion.label_drop",
    "diffusion.weighting",
)
NEEDS_FORCE += (
    "diffusion.min_snr_gamma",
    "diffusion.timestep_sampling",
    "diffusion.logit_",
    "diffusion.stratified",
    "seed",
)
IMAGES = "images"  # stands for the files of the dataset


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run folder that is ready to be trained in."""

    folder: RunFolder
    config: RunConfig
    step: int  # steps already done

    @property
    def finished(self) -> bool:
        return self.step >= self.config.train.steps


def start_or_resume(
    config: RunConfig, path: Path, *, fresh: bool = False, force_change: Collection[str] = ()
) -> RunPlan:
    """Start a run in `path`, or continue the one that is there.

    With `fresh`, an existing run is left alone and the next free name (`mnist-2`) is used. `force_change` names
    settings that may differ from the run's. Raises UsageError when the run that is there has other settings or the
    folder is something else, MachineError when it cannot be written.
    """
    folder = RunFolder(path)
    if fresh and folder.is_run():
        folder = RunFolder(_free_name(path))
    if folder.is_run():
        folder.check_continues()
        return _continue(config, folder, force_change)
    where = folder.path
    if where.exists() and (not where.is_dir() or not all(is_leftover(path) for path in where.iterdir())):
        raise UsageError(f"{where} exists and is not a run of ditkit", "choose another place with --name or --runs-dir")
    try:
        make_folder(folder.path)
        folder.write_config(config)
    except OSError as error:
        raise MachineError(f"cannot write to {folder.path}: {error.strerror}", "choose another --runs-dir") from None
    return RunPlan(folder=folder, config=config, step=0)


def _continue(config: RunConfig, folder: RunFolder, force_change: Collection[str]) -> RunPlan:
    changed = differences(folder.read_config(), config)
    fixed = {key: pair for key, pair in changed.items() if not key.startswith(MAY_CHANGE)}
    refused = {key: pair for key, pair in fixed.items() if key not in force_change or not key.startswith(NEEDS_FORCE)}
    if refused:
        listed = ", ".join(f"{key} = {old!r} (now {new!r})" for key, (old, new) in list(refused.items())[:4])
        again = f"ditkit train {shlex.quote(str(folder.path))}"
        hint = f"continue it with `{again}` (its own settings); --fresh or --name starts another"
        if all(key.startswith(NEEDS_FORCE) for key in refused):
            hint += "; or change it with " + " ".join(f"--force-change {key}" for key in refused)
        raise UsageError(f"{folder.path} was started with {listed}", hint)
    # Other settings are written once the run goes on with them.
    return RunPlan(folder=folder, config=config, step=steps_done(folder, config))


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


def _free_name(path: Path) -> Path:
    number = 2
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate
