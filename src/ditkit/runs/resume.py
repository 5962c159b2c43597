"""Starting a run in a folder, or continuing the one that is there, and what may differ then."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..errors import CheckpointError, DataError, UsageError
from ..io.atomic import is_leftover, make_folder
from ..io.paths import claim_free
from ..io.text import as_toml, plural, shell_words
from . import manifest
from .folder import LOCK, RunFolder, cannot_write, lock
from .init_from import keep_first_weights
from .lookup import WEIGHTS
from .model_info import read_model_info
from .remarks import check_new_run
from .stored import continued, differences

# Settings that may differ when a run continues: the network and the steps so far stay what they are.
# fmt: off
MAY_CHANGE = (
    "train.steps", "train.log_every", "train.save_every", "train.sample_every", "train.sample_columns",
    "train.validate_every", "train.evaluate_", "train.keep", "train.accumulate", "train.spike", "train.max_skips",
    "train.rollbacks", "data.worker", "data.max_bad", "data.path", "data.label_file",
    "data.label_from", "sample.",
    "autoencoder.source",
)
# Settings that may differ only when the user insists: the run is no longer one that its settings alone repeat.
NEEDS_FORCE = (
    "optim.", "train.batch_size", "data.flip", "data.balance", "data.validation", "diffusion.label_drop",
    "diffusion.weighting", "diffusion.min_snr_gamma", "diffusion.timestep_sampling", "diffusion.logit_",
    "diffusion.stratified", "seed",
)
# fmt: on
IMAGES = "images"  # stands for the files of the dataset


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run whose folder is ready to be trained in, with what to do in it."""

    folder: RunFolder
    config: RunConfig  # its config.toml may say other ones until the run goes on with these
    step: int  # steps already done

    @property
    def finished(self) -> bool:
        return self.step >= self.config.train.steps

    def why_finished(self) -> tuple[str, str]:
        """Why there is nothing to do for a finished run, and what can be done."""
        folder, steps, planned = self.folder.path, self.config.train.steps, self.folder.read_config().train.steps
        again = f"ditkit train {shell_words(str(folder))}"
        if self.step < planned:
            said = f"{folder} is at step {self.step} of {planned}, past --steps {steps}"
            return said, f"continue with `{again}`, or start a new run with --fresh"
        said = f"{folder} is finished: {plural(self.step, 'step')}"
        return said, f"train on with `{again} --steps {2 * self.step}`, or start a new run with --fresh"


@contextlib.contextmanager
def start_or_resume(config: RunConfig, path: Path, *, force_change: Collection[str] = ()) -> Iterator[RunPlan]:
    """`prepare_run` with the folder locked until the block ends. Raises BusyError if another process works on it."""
    folder = prepare_run(config, path, force_change=force_change).folder  # not even a lock may lie in a refused one
    with lock(folder):
        yield _resume(config, folder, force_change)  # another process may have trained before the lock was free


def prepare_run(config: RunConfig, path: Path, *, fresh: bool = False, force_change: Collection[str] = ()) -> RunPlan:
    """Write the settings of a new run into `path`, or plan to continue the run that is there, whoever works on it.

    Args:
        config: the settings to train with.
        path: the run's folder, made where it is missing.
        fresh: leave an existing run alone and take the next free name (`mnist-2`).
        force_change: settings that may differ from the run's.

    Raises:
        UsageError: the run that is there has other settings, or the folder is something else.
        MachineError: the folder cannot be written.
    """
    folder = RunFolder(claim_free(path, folder=True) if fresh and RunFolder(path).is_run() else path)
    if folder.is_run():
        folder.check_continues()
        return _resume(config, folder, force_change)
    check_new_run(config)
    path = folder.path
    if path.exists() and (not path.is_dir() or not all(_is_leftover(file) for file in path.iterdir())):
        raise UsageError(f"{path} exists and is not a run of ditkit", "choose another place with --name or --runs-dir")
    try:
        make_folder(path)
        with lock(folder):
            if folder.is_run():  # two processes began it at once
                folder.check_continues()
                return _resume(config, folder, force_change)
            keep_first_weights(config, folder)
            folder.write_config(config)
    except OSError as error:
        raise cannot_write(folder, error) from None
    return RunPlan(folder=folder, config=config, step=0)


def _is_leftover(path: Path) -> bool:
    """Whether a run that was ended before it had settings left a file behind."""
    return is_leftover(path) or path.name in (LOCK, RunFolder(path.parent).first_weights.name)


def check_same_run(config: RunConfig, checkpoint: Path, force_change: Collection[str] = ()) -> None:
    """Raise DataError for a checkpoint of another network or seed: one that came here from another run."""
    changed = differences(read_model_info(checkpoint / WEIGHTS).config, config)
    for key, (old, new) in changed.items():
        if key.startswith(("model.", "diffusion.", "seed")) and key not in force_change:
            if key.startswith(NEEDS_FORCE) and key != "seed":
                continue
            raise DataError(
                f"{checkpoint} is of another run: {key} = {as_toml(old)} (here {as_toml(new)})",
                "move it away; the run then goes on from the checkpoint before",
            )


def _resume(config: RunConfig, folder: RunFolder, force_change: Collection[str]) -> RunPlan:
    before = folder.read_config()
    config = continued(config, before)
    changed = differences(before, config)
    changed = {key: pair for key, pair in changed.items() if not key.startswith(MAY_CHANGE)}
    refused = {k: pair for k, pair in changed.items() if k not in force_change or not k.startswith(NEEDS_FORCE)}
    if refused:
        some = list(refused.items())[:4]
        listed = ", ".join(f"{key} = {as_toml(old)} (now {as_toml(new)})" for key, (old, new) in some)
        again = f"ditkit train {shell_words(str(folder.path))}"
        hint = f"continue it with `{again}` (its own settings); --fresh or --name starts another"
        if all(key.startswith(NEEDS_FORCE) for key in refused):
            hint += "; or change it with " + " ".join(f"--force-change {key}" for key in refused)
        raise UsageError(f"{folder.path} was started with {listed}", hint)
    return RunPlan(folder=folder, config=config, step=steps_done(folder, config))


def adopt_settings(folder: RunFolder, config: RunConfig, step: int) -> str | None:
    """Write the settings that a run goes on with, at `step`, into its folder; what to know about them, if anything."""
    before = folder.read_config()
    if before == config:
        return None
    folder.write_config(config)
    planned, steps, optim = before.train.steps, config.train.steps, config.optim
    if planned == steps or optim.schedule == "constant" or step <= optim.warmup_steps:
        return None
    return (
        f"the learning rate ({optim.schedule} schedule) falls over {steps} steps from now on, not {planned}: the run "
        f"will not be that of {steps} steps from the start. For that one begin a new run (--name), or use --set "
        "optim.schedule=constant from the start, which does not depend on the length"
    )


def steps_done(folder: RunFolder, config: RunConfig) -> int:
    """Steps that a run has done of those that are wanted: where nothing seems left to do, 0 unless that is sure."""
    step = folder.last_step()
    return step if step < config.train.steps or manifest.is_whole(folder.checkpoint(step)) else 0


def kept_threads(folder: RunFolder) -> int | None:
    """How many threads computed when the newest checkpoint of a run was saved; None where that is not known."""
    state: Any = None
    with contextlib.suppress(CheckpointError, ValueError, RecursionError):  # which training reports
        newest = folder.newest_whole("state.json")
        state = json.loads(manifest.read_file(newest, "state.json")) if newest else None
    threads = state.get("threads") if isinstance(state, dict) else None
    return threads if isinstance(threads, int) and threads > 0 else None


def check_force_change(keys: Collection[str]) -> None:
    """Raise UsageError for a setting that cannot change in the middle of a run."""
    for key in keys:
        if key != IMAGES and not key.startswith((*MAY_CHANGE, *NEEDS_FORCE)):
            raise UsageError(
                f"--force-change: {key} cannot change in the middle of a run",
                f"what can: {IMAGES}, {', '.join(f'{key}…' if key[-1] in '._' else key for key in NEEDS_FORCE)}",
            )
