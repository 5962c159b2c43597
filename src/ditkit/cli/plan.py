"""One training run, decided: words to settings, a folder, a device and a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import launch

if TYPE_CHECKING:
    from ..config import RunConfig
    from .beginning import Beginning

_PACKAGES = ("tensorboard", "wandb")  # that a tracker of their name needs


@dataclass(kw_only=True)
class Plan:
    """One run, decided: what, where, on what, for how long."""

    config: RunConfig
    folder: Path
    find_lr: bool
    fresh: bool
    beginning: Beginning | None = None
    yes: bool = False
    fit_batch: bool = False
    seconds: float | None = None
    device: str = "auto"
    dtype: str = "auto"
    shard: bool = False
    preempt_signal: int | None = None
    force_change: Sequence[str] = ()
    threads: str = "auto"
    compile: str = "auto"
    grad_checkpointing: str = "auto"
    trackers: Sequence[str] = ()
    elsewhere: bool = False  # --runs-dir is given, so that other commands need it, too

    def check_words(
        self,
        max_time: str | None,
        device: str,
        dtype: str,
        preempt: str | None,
        force_change: list[str] | None,
        track: list[str] | None,
        *,
        yes: bool,
    ) -> None:
        from ..starting import check_force_change
        from . import signals, words
        from .evaluate import check_features

        self.yes = yes
        self.preempt_signal = signals.preempt_signal(preempt) if preempt is not None else None
        self.force_change = tuple(force_change or ())
        check_force_change(self.force_change)
        self.seconds = words.duration(max_time) if max_time is not None else None
        self.device, self.dtype = words.device(device), words.dtype(dtype)
        self._check_trackers(track or ())
        if self.config.train.evaluate_every:
            check_features(None, self.config.data.channels)

    def tell_beginning(self, labels: Sequence[str], *, quiet: bool) -> None:
        """Say what the run begins with, if it does now."""
        from ..run_folder import RunFolder

        if self.beginning and (self.fresh or not RunFolder(self.folder).checkpoint_steps()):
            self.beginning.tell(labels, quiet=quiet)

    def check_speed(self, threads: str, compile: str, grad_checkpointing: str, *, shard: bool) -> None:
        from . import words

        self.shard = shard
        self.threads, self.compile = words.threads(threads), words.switch("--compile", compile)
        self.grad_checkpointing = words.switch("--grad-checkpointing", grad_checkpointing)

    def _check_trackers(self, names: Sequence[str]) -> None:
        from importlib.util import find_spec

        from ..errors import UsageError
        from ..registry import TRACKERS

        self.trackers = tuple(dict.fromkeys(TRACKERS.check(name) for name in names))
        for name in self.trackers:
            if name in _PACKAGES and find_spec(name) is None:
                raise UsageError(f"--track {name} needs the package {name}", f"pip install 'ditkit[{name}]'")


def decide(
    target: str | None,
    file: Path | None,
    settings: list[str],
    flags: dict[str, Any],
    *,
    name: str | None,
    runs_dir: Path | None,
    fresh: bool,
    device: str,
) -> Plan:
    """The plan that the words of `ditkit train` stand for. Raises UsageError for what is wrong with them."""
    from ..errors import UsageError
    from ..run_folder import RunFolder
    from ..run_folder import runs_dir as runs_place
    from . import targets, words
    from .beginning import find_beginning

    flags = dict(flags)
    init_from = flags.pop("--init-from")
    find_lr, fit_batch = (_is_auto(flags[flag]) for flag in ("--lr", "--batch-size"))
    flags |= {"--lr": None} if find_lr else {}
    flags |= {"--batch-size": None} if fit_batch else {}
    if fresh and launch.restarts():
        raise UsageError(
            "--fresh would begin anew whenever the run is started again (--max-restarts, requeue)",
            "leave it out, and give the run a --name of its own",
        )
    if target is None and file is None:
        raise UsageError("train what?", "try `ditkit train mnist`, or name a recipe, a data set or a folder of images")
    runs = runs_place(runs_dir)
    found = targets.find_target(target, runs) if target is not None else None
    if found and found.folder and name is None:
        folder = found.folder
    else:
        folder = runs / (words.run_name(name) if name is not None else targets.name_of(found, file))
    existing = RunFolder(folder)
    if not fresh:
        existing.check_continues()
    if found:
        found = targets.for_device(found, words.device(device), None if fresh else existing)
    beginning = None
    if init_from is not None:
        beginning = find_beginning(init_from, runs, None if fresh else existing)
        found = beginning.under(found, targets.name_of(found, file))
    config = targets.build(found, file=file, settings=settings, flags=flags)
    if find_lr and existing.is_run() and not fresh:
        config = with_lr(config, existing.read_config().optim.lr)  # measured when the run began
        find_lr = existing.last_step() == 0
    if beginning:
        beginning.check(config)
    return Plan(
        config=config,
        folder=folder,
        find_lr=find_lr,
        fit_batch=fit_batch,
        fresh=fresh,
        beginning=beginning,
        elsewhere=runs_dir is not None,
    )


def _is_auto(word: str | None) -> bool:
    return word is not None and word.strip().lower() == "auto"


def with_lr(config: RunConfig, lr: float) -> RunConfig:
    """The same settings with another peak learning rate."""
    return replace(config, optim=replace(config.optim, lr=lr))
