"""`ditkit train`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from ..io import text
from ..runtime import clock, launch
from . import complete, console
from .opt import changes, examples, only, opt
from .options import AUTO, Data, Settings
from .train_options import Optimiser, TrainDevice, TrainModel, TrainOutput

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..data.contract import Datasets
    from ..events import Event
    from ..runs.folder import RunFolder
    from ..runs.resume import RunPlan
    from ..runs.target import ResolvedRun
    from ..runtime.signals import StopRequest
    from ..runtime.threads import Threads

_PROBE_SECONDS = 3.0
_OUTPUT = "name runs_dir sample_every keep_every evaluate_every snapshot_every track fresh dry_run yes quiet"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to train."""

    target: str | None = opt(
        "RECIPE|DATASET|FOLDER|ARCHIVE|URL|hf://…",
        "A recipe or data set by name (`ditkit list`), a folder with one subfolder of images per label, an archive of "
        "one or its web address, hf://user/dataset, or a run to continue.",
        complete=complete.training_targets,
        shown=False,
    )


@examples(
    "ditkit train mnist",
    "ditkit train celeba --data-dir ~/celeba --max-time 1h",
    "ditkit train ./photos --set model.preset=dit-tiny/8 --lr auto\n",
    "ditkit train hf://user/dataset",
)
def run(
    what: Target,
    optimiser: Optimiser,
    data: Data,
    model: TrainModel,
    settings: Settings,
    output: Annotated[TrainOutput, only(_OUTPUT)],
    machine: TrainDevice,
) -> None:
    """Train a model, or continue: the same command continues an unfinished run where it stopped.

    Everything goes to runs/NAME: settings, metrics, checkpoints, grids of samples. Ctrl-C finishes the step and saves.
    """
    resolved = _resolve(what.target, optimiser, data, model, settings, output, machine)
    _check_words(resolved, optimiser, output, machine)
    (_print_plan if output.dry_run else _train)(resolved, optimiser, output, machine)


def _resolve(
    target: str | None,
    optimiser: Optimiser,
    data: Data,
    model: TrainModel,
    settings: Settings,
    output: TrainOutput,
    machine: TrainDevice,
) -> ResolvedRun:
    """The run that the words stand for. Raises UsageError for what is wrong with them."""
    from ..errors import UsageError
    from ..runs.target import resolve_run
    from .datasets import for_device

    if output.fresh and launch.restarts():
        raise UsageError(
            "--fresh would start a new run whenever this one is started again (--max-restarts, requeue)",
            "leave it out, and give the run a --name of its own",
        )
    if target is None and settings.config is None:
        raise UsageError(
            "missing argument: what to train on",
            "try `ditkit train mnist`, or name a recipe, a data set or a folder of images",
        )
    resolved = resolve_run(
        target,
        file=settings.config,
        settings=settings.settings or [],
        changes=changes(optimiser, data, model, output),
        runs=output.runs,
        name=output.name,
        fresh=output.fresh,
        init_from=model.init_from,
        choose=lambda target, existing: for_device(target, machine.device, existing),
    )
    if optimiser.lr == AUTO and resolved.existing:  # it was measured when the run began
        resolved.existing.last_step()  # raises CheckpointError, before anything is printed
        return replace(resolved, config=_with_lr(resolved.config, resolved.existing.read_config().optim.lr))
    return resolved


def _with_lr(config: RunConfig, lr: float) -> RunConfig:
    return replace(config, optim=replace(config.optim, lr=lr))


def _check_words(run: ResolvedRun, optimiser: Optimiser, output: TrainOutput, machine: TrainDevice) -> None:
    """Raise UsageError for what else is wrong, before any work."""
    from ..evaluation.report import check_evaluation
    from ..runs.remarks import check_new_run
    from ..runs.resume import check_force_change
    from ..trackers.contract import check_names

    _ = machine.signal, optimiser.seconds
    check_force_change(optimiser.force_change or ())
    check_names(output.track or ())
    check_evaluation(run.config)
    if not run.existing:
        check_new_run(run.config)


def _print_plan(run: ResolvedRun, optimiser: Optimiser, output: TrainOutput, machine: TrainDevice) -> None:
    """The settings on stdout, what they cost on stderr."""
    if not launch.is_main():
        return
    from .. import recipes
    from ..estimation import report as estimation_report
    from .datasets import open_training_images
    from .estimate import load_torch

    datasets = open_training_images(run.config, quiet=output.quiet, yes=output.yes)
    _say_remarks(run, datasets, quiet=output.quiet)
    console.data(recipes.dump(run.config))
    if output.quiet:
        return
    config = _fitted(run, datasets, machine, quiet=False) if optimiser.batch_size == AUTO else run.config
    load_torch(quiet=False)
    report = estimation_report.estimate(
        config,
        datasets=datasets,
        folder=run.folder.path,
        device=machine.device,
        dtype=machine.dtype,
        seconds=_PROBE_SECONDS,
        progress=console.watch(),
    )
    measured = _measures_lr(optimiser, run.existing)
    rate = "learning rate to be measured first" if measured else f"learning rate {config.optim.lr:g}"
    counts = f"{text.plural(report['images'], 'image')}, {text.plural(report['labels'], 'label')}"
    console.say(f"would train {run.folder.path}: {counts}, {rate}")
    for line in estimation_report.report_lines(report):
        console.say(line)


def _measures_lr(optimiser: Optimiser, folder: RunFolder | None) -> bool:
    """Whether a learning rate is measured first: not for a run that has begun."""
    return optimiser.lr == AUTO and not (folder and folder.last_step())


def _train(run: ResolvedRun, optimiser: Optimiser, output: TrainOutput, machine: TrainDevice) -> None:
    from ..runtime.signals import stop_on_signals
    from ..runtime.threads import take_threads
    from ..visual.training_progress import TrainingProgress, next_steps
    from .datasets import open_training_images, watching

    quiet = output.quiet or not launch.is_main()
    datasets = open_training_images(run.config, quiet=quiet, yes=output.yes)
    _say_remarks(run, datasets, quiet=quiet)
    _announce_init_from(run, datasets, measures_lr=_measures_lr(optimiser, run.existing), quiet=quiet)
    threads = _chosen_threads(run, machine, quiet=quiet)
    if optimiser.batch_size == AUTO:
        run = replace(run, config=_fitted(run, datasets, machine, quiet=quiet))
    message = "" if quiet else "finishing this step and saving; once more to stop at once"
    with stop_on_signals(message, machine.signal) as stop:
        plan = _prepared(run, optimiser, machine, datasets, stop, quiet=quiet)
        if plan.finished:
            return
        with console.loading_torch(quiet=quiet):
            from ..trackers.contract import Tracking, check_names
            from ..training.loop import train
            from ..training.step import SpeedOptions
        take_threads(threads)
        progress = TrainingProgress(plan.folder.path.name, quiet=quiet)
        trackers = check_names(output.track or ()) if launch.is_main() else ()
        tracking = Tracking(trackers, plan.config, progress.note)

        def listen(event: Event) -> None:
            progress(event)
            tracking(event)

        with progress, contextlib.closing(tracking), watching(quiet=quiet, yes=output.yes):
            train(
                plan.config,
                plan.folder.path,
                listen,
                device=machine.device,
                dtype=machine.dtype,
                max_seconds=clock.left(optimiser.seconds),
                should_stop=stop,
                force_change=optimiser.force_change or (),
                speed=SpeedOptions(
                    compile=machine.compile,
                    kernels=machine.kernels,
                    grad_checkpointing=machine.grad_checkpointing,
                    shard=machine.shard,
                    follow_load=threads.follows,
                ),
                datasets=datasets,
            )
    if progress.finished:
        for line in next_steps(progress.finished, progress.labels, elsewhere=output.runs_dir is not None):
            progress.note(line)
    if progress.finished and progress.finished.reason == "stopped":
        raise typer.Exit(stop.exit_code or 143)  # 143: another process of the run got the signal


def _say_remarks(run: ResolvedRun, datasets: Datasets, *, quiet: bool) -> None:
    """What the settings of a new run do that is hardly wanted."""
    from ..runs.remarks import remarks

    for remark in () if run.existing else remarks(run.config, len(datasets.train.labels)):
        console.say(f"warning: {remark}", quiet=quiet)


def _announce_init_from(run: ResolvedRun, datasets: Datasets, *, measures_lr: bool, quiet: bool) -> None:
    """Say what the run begins with, if it does now."""
    if run.init_from and (run.fresh or not run.folder.checkpoint_steps()):
        text = run.init_from.describe(datasets.train.labels, run.config, measures_lr=measures_lr)
        if text:
            console.say(text, quiet=quiet)


def _chosen_threads(run: ResolvedRun, machine: TrainDevice, *, quiet: bool) -> Threads:
    """How many threads compute; a run that goes on begins with those that it has, and with them its last bits."""
    from ..runs.resume import kept_threads
    from ..runtime.threads import prepare_threads

    chosen = prepare_threads(machine.threads, None if run.fresh else kept_threads(run.folder))
    if chosen.why:
        console.say(f"{chosen.why} (on a CPU looked at again at every checkpoint; --threads N decides)", quiet=quiet)
    return chosen


def _fitted(run: ResolvedRun, datasets: Datasets, machine: TrainDevice, *, quiet: bool) -> RunConfig:
    """The settings with a batch split into as many parts as memory requires; a continued run keeps its parts."""
    from ..estimation.report import fitted

    progress = console.watch(quiet=quiet)
    config, text = fitted(
        run.config, datasets, device=machine.device, dtype=machine.dtype, run=run.existing, progress=progress
    )
    console.say(text)
    return config


def _prepared(
    run: ResolvedRun,
    optimiser: Optimiser,
    machine: TrainDevice,
    datasets: Datasets,
    stop: StopRequest,
    *,
    quiet: bool,
) -> RunPlan:
    """The run, prepared by the leading process, in which a finished one is reported, whoever else works on it."""
    from ..errors import BusyError
    from ..runs.folder import lock, remove_leftovers
    from ..runs.resume import RunPlan, prepare_run, steps_done
    from ..runs.same_images import check_finished

    if not launch.is_main():  # hears from the leading process when training begins which run it is
        step = steps_done(run.folder, run.config) if run.existing else 0
        return RunPlan(folder=run.folder, config=run.config, step=step)
    if machine.device not in (AUTO, "cpu"):  # one that is not there must not leave a folder behind
        with console.loading_torch(quiet=quiet):
            from ..runtime.device import find_device

            find_device(machine.device)
    forced = optimiser.force_change or ()
    plan = prepare_run(run.config, run.folder.path, fresh=run.fresh, force_change=forced)
    if plan.finished:
        check_finished(datasets.train, plan.folder, plan.config, forced)
        with contextlib.suppress(BusyError), lock(plan.folder):
            remove_leftovers(plan.folder)  # it may have been killed as it ended
        for line in plan.why_finished():
            console.say(line, quiet=quiet)
    elif _measures_lr(optimiser, plan.folder):
        with lock(plan.folder):  # another process may be training it, and has saved nothing yet
            if plan.folder.last_step():
                return replace(plan, config=_with_lr(plan.config, plan.folder.read_config().optim.lr))
            plan = _with_measured_lr(plan, datasets, machine.device, stop, quiet=quiet)
    return plan


def _with_measured_lr(run: RunPlan, datasets: Datasets, device: str, stop: StopRequest, *, quiet: bool) -> RunPlan:
    from ..runs.init_from import with_kept_weights
    from ..runs.rates import recipe_of
    from .lr_find import draw, measure

    picture = run.folder.path / "lr-find.png"
    try:
        curve = measure(with_kept_weights(run.config, run.folder), datasets, device, should_stop=stop, quiet=quiet)
    except KeyboardInterrupt:
        console.say("stopped before the learning rate was known; the same command measures it again", quiet=quiet)
        raise typer.Exit(stop.exit_code or 130) from None
    draw(curve, picture)
    console.say(f"learning rate: {curve.suggestion:.2e}, measured; see {picture}", quiet=quiet)
    if name := recipe_of(run.config):
        own = f"the recipe {name} has {run.config.optim.lr:.2e}, found by whole runs"
        console.say(f"{own}: begin without --lr auto to train at that", quiet=quiet)
    config = _with_lr(run.config, curve.suggestion)
    run.folder.write_config(config)
    return replace(run, config=config)
