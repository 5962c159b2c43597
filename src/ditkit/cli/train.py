"""Ditkit train."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..runtime import launch
from . import console
from .annotated import (
    Autoencoder,
    Config,
    DataDir,
    Debug,
    Device,
    ImageSize,
    LabelBy,
    LabelFile,
    Quiet,
    RunsDir,
    Settings,
    Yes,
)
from .train_options import (
    BatchSize,
    Compile,
    DryRun,
    Dtype,
    EvaluateEvery,
    ForceChange,
    Fresh,
    GradCheckpointing,
    InitFrom,
    KeepEvery,
    Lr,
    MaxTime,
    Name,
    PreemptSignal,
    SampleEvery,
    Seed,
    Shard,
    SnapshotEvery,
    Steps,
    Target,
    Threads,
    Track,
)

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..data.contract import Datasets
    from ..events import Event
    from ..runs.init_from import InitFrom as InitFromModel
    from ..runs.resume import ClaimedRun
    from ..runtime.threads import Threads as ChosenThreads


_PACKAGES = ("tensorboard", "wandb")  # that a tracker of their name needs


@dataclass(kw_only=True)
class TrainPlan:
    """One run, decided: what, where, on what, for how long."""

    config: RunConfig
    folder: Path
    find_lr: bool
    fresh: bool
    beginning: InitFromModel | None = None
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
        from ..runs.resume import check_force_change
        from . import parsing, signals
        from .evaluate import check_features

        self.yes = yes
        self.preempt_signal = signals.preempt_signal(preempt) if preempt is not None else None
        self.force_change = tuple(force_change or ())
        check_force_change(self.force_change)
        self.seconds = parsing.duration(max_time) if max_time is not None else None
        self.device, self.dtype = parsing.device(device), parsing.dtype(dtype)
        self._check_trackers(track or ())
        if self.config.train.evaluate_every:
            check_features(None, self.config.data.channels)

    def announce_init_from(self, labels: Sequence[str], *, quiet: bool) -> None:
        """Say what the run begins with, if it does now."""
        from ..runs.folder import RunFolder

        begins = self.fresh or not RunFolder(self.folder).checkpoint_steps()
        if self.beginning and begins and (text := self.beginning.describe(labels)):
            console.say(text, quiet=quiet)

    def check_speed(self, threads: str, compile: str, grad_checkpointing: str, *, shard: bool) -> None:
        from . import parsing

        self.shard = shard
        self.threads, self.compile = parsing.threads(threads), parsing.switch("--compile", compile)
        self.grad_checkpointing = parsing.switch("--grad-checkpointing", grad_checkpointing)

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
) -> TrainPlan:
    """The plan that the words of `ditkit train` stand for. Raises UsageError for what is wrong with them."""
    from ..errors import UsageError
    from ..runs.folder import runs_dir as runs_place
    from ..runs.target import resolve_run
    from . import datasets, parsing

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
    run = resolve_run(
        target,
        file=file,
        settings=settings,
        flags=flags,
        runs=runs_place(runs_dir),
        name=name,
        fresh=fresh,
        init_from=init_from,
        choose=lambda target, existing: datasets.for_device(target, parsing.device(device), existing),
    )
    config = run.config
    if find_lr and run.existing:
        config = with_lr(config, run.existing.read_config().optim.lr)  # measured when the run began
        find_lr = run.existing.last_step() == 0
    return TrainPlan(
        config=config,
        folder=run.folder.path,
        find_lr=find_lr,
        fit_batch=fit_batch,
        fresh=fresh,
        beginning=run.init_from,
        elsewhere=runs_dir is not None,
    )


def _is_auto(word: str | None) -> bool:
    return word is not None and word.strip().lower() == "auto"


def with_lr(config: RunConfig, lr: float) -> RunConfig:
    """The same settings with another peak learning rate."""
    return replace(config, optim=replace(config.optim, lr=lr))


EXAMPLES = (
    "Examples:\n\nditkit train mnist\nditkit train celeba --data-dir ~/celeba --max-time 1h\n"
    "ditkit train ./photos --set model.preset=dit-tiny/8 --lr auto\n\nditkit train hf://user/dataset"
)

_PROBE_SECONDS = 3.0


def run(
    target: Target = None,
    steps: Steps = None,
    max_time: MaxTime = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    seed: Seed = None,
    data_dir: DataDir = None,
    label_by: LabelBy = None,
    label_file: LabelFile = None,
    image_size: ImageSize = None,
    autoencoder: Autoencoder = None,
    init_from: InitFrom = None,
    config: Config = None,
    settings: Settings = None,
    name: Name = None,
    runs_dir: RunsDir = None,
    sample_every: SampleEvery = None,
    keep_every: KeepEvery = None,
    evaluate_every: EvaluateEvery = None,
    snapshot_every: SnapshotEvery = None,
    track: Track = None,
    fresh: Fresh = False,
    force_change: ForceChange = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    quiet: Quiet = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    shard: Shard = False,
    threads: Threads = "auto",
    compile: Compile = "auto",
    grad_checkpointing: GradCheckpointing = "auto",
    preempt_signal: PreemptSignal = None,
    debug: Debug = False,
) -> None:
    """Train a model, or continue: the same command takes up an unfinished run where it stopped.

    Everything goes to runs/NAME: settings, metrics, checkpoints, grids of samples. Ctrl-C finishes the step and saves.
    """
    flags = {
        "--steps": steps,
        "--batch-size": batch_size,
        "--seed": seed,
        "--lr": lr,
        "--init-from": init_from,
        "--data-dir": data_dir,
        "--label-by": label_by,
        "--label-file": label_file,
        "--image-size": image_size,
        "--autoencoder": autoencoder,
        "--sample-every": sample_every,
        "--keep-every": keep_every,
        "--evaluate-every": evaluate_every,
        "--snapshot-every": snapshot_every,
    }
    plan = decide(target, config, settings or [], flags, name=name, runs_dir=runs_dir, fresh=fresh, device=device)
    plan.check_words(max_time, device, dtype, preempt_signal, force_change, track, yes=yes)
    plan.check_speed(threads, compile, grad_checkpointing, shard=shard)
    (_print_plan if dry_run else _train)(plan, quiet=quiet)


def _print_plan(plan: TrainPlan, *, quiet: bool) -> None:
    """The settings on stdout, what they cost on stderr."""
    if not launch.is_main():
        return
    from .. import recipes
    from ..estimation import report as estimation_report
    from .datasets import open_training_images

    config = plan.config
    opened = open_training_images(config, quiet=quiet, yes=plan.yes)
    images, labels = len(opened.train), opened.train.labels
    console.data(recipes.dump(config))
    if quiet:
        return
    if plan.fit_batch:
        config = _fitted(plan, labels, images, quiet=quiet)
    report = estimation_report.estimate_run(
        config,
        len(labels),
        images,
        folder=plan.folder,
        device=plan.device,
        dtype=plan.dtype,
        seconds=_PROBE_SECONDS,
        quiet=quiet,
    )
    rate = "learning rate to be measured first" if plan.find_lr else f"learning rate {config.optim.lr:g}"
    counted = f"{images:,} images, {len(labels)} labels"
    console.say(f"would train {plan.folder}: {counted}, {rate}")
    for line in estimation_report.report_lines(report):
        console.say(line)


def _train(plan: TrainPlan, *, quiet: bool) -> None:
    from ..runtime.threads import take_threads
    from .datasets import open_training_images, watching
    from .progress import TrainingProgress, next_steps
    from .signals import stop_on_signals

    quiet = quiet or not launch.is_main()
    datasets = open_training_images(plan.config, quiet=quiet, yes=plan.yes)
    images, labels = len(datasets.train), datasets.train.labels
    plan.announce_init_from(labels, quiet=quiet)
    threads = _chosen_threads(plan, quiet=quiet)
    if plan.fit_batch:
        plan.config = _fitted(plan, labels, images, quiet=quiet)
    message = "" if quiet else "finishing this step and saving; once more to stop at once"
    with stop_on_signals(message, plan.preempt_signal) as stop, contextlib.ExitStack() as stack:
        claimed = _claim(plan, datasets, stack, quiet=quiet)
        if claimed is None and (launch.is_main() or _is_finished(plan)):
            return
        config, folder = (claimed.config, claimed.folder.path) if claimed else (plan.config, plan.folder)
        with console.loading_torch(quiet=quiet):
            from ..trackers.contract import Tracking
            from ..training.loop import train
            from ..training.step import SpeedOptions
        take_threads(threads)
        progress = TrainingProgress(folder.name, quiet=quiet)
        tracking = Tracking(plan.trackers if launch.is_main() else (), config, progress.note)

        def listen(event: Event) -> None:
            progress(event)
            tracking(event)

        with progress, contextlib.closing(tracking), watching(quiet=quiet, yes=plan.yes):
            train(
                config,
                folder,
                listen,
                device=plan.device,
                dtype=plan.dtype,
                max_seconds=plan.seconds,
                should_stop=stop,
                force_change=plan.force_change,
                speed=SpeedOptions(compile=plan.compile, grad_checkpointing=plan.grad_checkpointing, shard=plan.shard),
                datasets=datasets,
                claimed=claimed,
            )
    if progress.finished:
        for line in next_steps(progress.finished, progress.labels, elsewhere=plan.elsewhere):
            progress.note(line)
    if progress.finished and progress.finished.reason == "stopped":
        raise typer.Exit(stop.exit_code or 143)  # 143: another process of the run got the signal


def _chosen_threads(plan: TrainPlan, *, quiet: bool) -> ChosenThreads:
    """How many threads compute; a run that goes on keeps those that it has, and with them its last bits."""
    import json

    from ..errors import CheckpointError
    from ..runs.folder import RunFolder
    from ..runs.manifest import read_file
    from ..runtime.threads import calm_threads, choose_threads

    state: Any = None
    with contextlib.suppress(CheckpointError, ValueError, RecursionError):  # which training reports
        newest = None if plan.fresh else RunFolder(plan.folder).newest_whole("state.json")
        state = json.loads(read_file(newest, "state.json")) if newest else None
    kept = state.get("threads") if isinstance(state, dict) else None
    chosen = choose_threads(plan.threads, kept if isinstance(kept, int) and kept > 0 else None)
    calm_threads(chosen)
    if chosen.why:
        console.say(chosen.why, quiet=quiet)
    return chosen


def _fitted(plan: TrainPlan, labels: Sequence[str], images: int, *, quiet: bool) -> RunConfig:
    """The settings with a batch in as many parts as memory asks for; a run that goes on keeps those that it has."""
    from ..estimation.report import fitted
    from ..runs.folder import RunFolder

    before = RunFolder(plan.folder)
    train = plan.config.train
    had = before.read_config().train.accumulate if before.is_run() and not plan.fresh else 1
    least = train.accumulate if train.batch_size % had else max(train.accumulate, had)
    where = {"device": plan.device, "dtype": plan.dtype}
    return fitted(plan.config, len(labels), images, **where, at_least=least, quiet=quiet)


def _is_finished(plan: TrainPlan) -> bool:
    """Whether nothing is left to do, as a process sees it that does not lead and so claims nothing."""
    from ..runs.folder import RunFolder
    from ..runs.resume import steps_done

    existing = RunFolder(plan.folder)
    is_new = plan.fresh or not existing.is_run()
    return not is_new and steps_done(existing, plan.config) >= plan.config.train.steps


def _claim(plan: TrainPlan, datasets: Datasets, stack: contextlib.ExitStack, *, quiet: bool) -> ClaimedRun | None:
    """The run, which the leading process starts or continues; None in the others, and if nothing is left to do."""
    from ..runs.folder import remove_leftovers
    from ..runs.resume import start_or_resume

    if not launch.is_main():
        return None
    if plan.device not in ("auto", "cpu"):  # one that is not there must not leave a folder behind
        with console.loading_torch(quiet=quiet):
            from ..runtime.device import find_device

            find_device(plan.device)
    run = stack.enter_context(
        start_or_resume(plan.config, plan.folder, fresh=plan.fresh, force_change=plan.force_change)
    )
    if run.finished:
        remove_leftovers(run.folder)  # it may have been killed as it ended
        _tell_finished(run, quiet=quiet)
        return None
    return _with_measured_lr(run, datasets, plan.device, quiet=quiet) if plan.find_lr else run


def _with_measured_lr(run: ClaimedRun, datasets: Datasets, device: str, *, quiet: bool) -> ClaimedRun:
    from .lr_find import measure, write

    curve, picture = measure(run.config, datasets, device, quiet=quiet), run.folder.path / "lr-find.png"
    write(curve, picture)
    console.say(f"learning rate: {curve.suggestion:.2e}, measured; see {picture}", quiet=quiet)
    config = with_lr(run.config, curve.suggestion)
    run.folder.write_config(config)
    return replace(run, config=config, written=config)


def _tell_finished(run: ClaimedRun, *, quiet: bool) -> None:
    """Why there is nothing to do for a run that has as many steps as its settings ask for."""
    folder, steps, planned = run.folder.path, run.config.train.steps, run.written.train.steps
    again = f"ditkit train {shlex.quote(str(folder))}"
    if run.step < planned:
        console.say(f"{folder} is at step {run.step} of {planned}, past --steps {steps}", quiet=quiet)
        console.say(f"continue with `{again}`, or begin anew with --fresh", quiet=quiet)
    else:
        console.say(f"{folder} is finished: {run.step} steps", quiet=quiet)
        console.say(f"train on with `{again} --steps {2 * run.step}`, or anew with --fresh", quiet=quiet)
