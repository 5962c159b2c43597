"""train(): the flat loop, events out."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import optim
from ..config import RunConfig
from ..data import workers
from ..data.batches import Batch
from ..data.contract import Datasets
from ..data.from_python import with_data
from ..errors import DataError, MachineError, PeerError
from ..events import Finished, OnEvent, Warned
from ..latents.cache import Interrupted
from ..runs.folder import FolderLostError, RunFolder
from ..runs.resume import RunPlan, adopt_settings, start_or_resume
from ..runtime.distributed import ProcessGroup, join
from ..runtime.failures import is_out_of_memory
from ..runtime.watchdog import is_lost
from .bad_images import note_bad_images
from .divergence import recover, report_less_memory, skip_step
from .previews import judge, show, validate
from .records import by_quarter, metrics_row, record_step, started_event
from .saving import emergency_save, follow_load, save, take_snapshot
from .session import TrainingSession
from .setup import open_session
from .step import SpeedOptions, compute_gradients

_STOP, _LATE, _BAD = 0, 1, 2  # flags that any process may raise in a step
Flags = Callable[[], list[bool]]


def train(
    config: RunConfig,
    folder: str | Path,
    on_event: OnEvent = lambda event: None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    max_seconds: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    force_change: Collection[str] = (),
    speed: SpeedOptions = SpeedOptions(),
    datasets: Datasets | None = None,
    data: Any = None,
    labels: Sequence[str] | None = None,
) -> Path:
    """Train in `folder` until all steps are done, `max_seconds` have passed or `should_stop()`; returns the folder.

    A run that is there already continues from its newest checkpoint, and ends as if it had never stopped, on a CPU to
    the last bit. Launched as several processes (torchrun), they share each batch, with `speed.shard` the weights too;
    each hears its own events, and all end when one fails.

    Args:
        on_event: is called with everything that happens, see `ditkit.events`.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32 or bfloat16, of matrix products; weights and optimiser are float32 always.
        max_seconds: from the call on, with all that comes before the first step; one step is taken in any case.
        should_stop: is asked after every step; the step is finished and saved.
        force_change: settings ("optim.lr", "images") that may differ from those that the run was started with.
        datasets: those of the config, where they are open already.
        data: images to train on instead: any torch Dataset or sequence of (image, label), or a pair of them, for
            training and for validation (see `with_data`). The same data must be given again to go on.
        labels: the names of the classes of `data`, in the order of their numbers.

    Raises DitkitError for what the user can mend: other settings than the run has, missing data, a full disk, a loss
    that stays not finite.
    """
    began = time.monotonic()
    until = math.inf if max_seconds is None else began + max_seconds
    config, datasets = (config, datasets) if data is None else with_data(config, data, labels)

    def must_stop() -> bool:
        return should_stop() or time.monotonic() > until

    with join(device) as (group, where), _claim(group, config, Path(folder), force_change) as run:
        if run.config.data != config.data:  # this process was started with other data than the main one
            datasets = None
        try:
            session = open_session(
                run.config, run.folder, group, on_event, where, dtype, force_change, must_stop, speed, datasets, until
            )
        except Interrupted:
            if group.size > 1:
                raise PeerError(143) from None  # not all of them notice at the same place
            reason = "stopped" if should_stop() else "time"
            on_event(_finished(run.folder, run.config, run.folder.last_step(), began, reason))
            return run.folder.path
        with contextlib.closing(session.logs):
            _run(session, until, should_stop)
    return run.folder.path


def _finished(folder: RunFolder, config: RunConfig, step: int, began: float, reason: str) -> Finished:
    seconds = time.monotonic() - began
    return Finished(step=step, steps=config.train.steps, seconds=seconds, reason=reason, folder=folder.path)


@contextlib.contextmanager
def _claim(group: ProcessGroup, config: RunConfig, path: Path, force_change: Collection[str]) -> Iterator[RunPlan]:
    """The run, which the main process starts or continues and keeps locked."""
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(start_or_resume(config, path, force_change=force_change)) if group.is_main else None
        # Every process takes the main one's settings and folder, whatever its own command line said.
        run = group.broadcast(run)
        assert run is not None
        yield run


def _run(session: TrainingSession, until: float, should_stop: Callable[[], bool]) -> None:
    """Train from the session's step on, and save however it ends."""
    # Only now: the data fits and the checkpoint could be read.
    if session.group.is_main and (text := adopt_settings(session.folder, session.config, session.step)):
        session.on_event(Warned(step=session.step, text=text))
    started = time.monotonic()
    session.on_event(started_event(session))

    def flags() -> list[bool]:
        return [should_stop(), time.monotonic() > until]

    reason = "stopped" if any(session.group.all_gather(should_stop())) else ""
    try:
        while not reason:
            stream = workers.iterate(session.batches, session.step, session.config.data)
            with contextlib.closing(stream) as batches:
                reason = _steps(session, batches, flags, started)
            if not reason:
                recover(session)  # then batches begin at an earlier step
    except (PeerError, FolderLostError, MemoryError):
        emergency_save(session)
        raise
    except RuntimeError as error:
        if is_lost(error) or is_out_of_memory(error):
            emergency_save(session)
        if not workers.lost_a_worker(error):
            raise
        if session.committing or not should_stop() or session.group.size > 1:
            emergency_save(session)
            raise _worker_died(session, error) from None
        reason = "stopped"  # the signal reached a worker that did not yet ignore it
    if reason != "done":
        save(session)
    session.on_event(_finished(session.folder, session.config, session.step, started, reason))


def _steps(session: TrainingSession, batches: Generator[Batch, None, None], flags: Flags, started: float) -> str:
    """Step until the end ("done"), a stop ("stopped", "time"), or too many faults in a row ("")."""
    config = session.config.train
    while session.step < config.steps:
        before = time.perf_counter()  # the monotonic clock of Windows ticks 64 times a second
        with _saving_on_bad_data(session):
            batch = next(batches)
        raised, metrics = take_step(session, batch, flags)
        record_step(session, metrics, time.perf_counter() - before, time.monotonic() - started)
        # Not before the row is written: a checkpoint knows how long metrics.jsonl was, and would lack this step's row.
        session.committing = False
        if raised[_BAD]:
            with _saving_on_bad_data(session):
                note_bad_images(session, batch.bad)
        if session.loss_health.skips >= config.max_skips:
            return ""
        last = session.step == config.steps
        # Before saving: a checkpoint carries the validation loss of its step, by which the best one is kept.
        if session.step % config.validate_every == 0:
            validate(session)
        if config.evaluate_every and session.step % config.evaluate_every == 0:
            judge(session)
        if config.snapshot_every and session.step % config.snapshot_every == 0:
            take_snapshot(session)
        if last:
            _round_off(session, metrics)
        if last or session.step % config.sample_every == 0:
            show(session)
        if last or config.saves_at(session.step):
            follow_load(session)
            save(session)
        if session.group.size == 1:  # several processes agreed during the step; one need not wait for the next
            raised = flags()
        if not last and (raised[_STOP] or raised[_LATE]):
            return "stopped" if raised[_STOP] else "time"
    return "done"


def _round_off(session: TrainingSession, metrics: dict[str, float]) -> None:
    """Rows of the last step alone; a run that is continued beyond it drops them, as it would not have had them."""
    session.logs.mark()
    if session.step % session.config.train.log_every:
        session.logs.append("metrics", metrics_row(session.step, metrics))
    if session.step % session.config.train.validate_every:
        validate(session)


@contextlib.contextmanager
def _saving_on_bad_data(session: TrainingSession) -> Iterator[None]:
    """Data that ends the run inside, or a machine that cannot read them: the steps so far are saved first."""
    try:
        yield
    except (DataError, MachineError):
        emergency_save(session)
        raise


def take_step(session: TrainingSession, batch: Batch, flags: Flags) -> tuple[list[bool], dict[str, float]]:
    """One optimiser step on one whole batch; every random number is a function of (seed, step).

    A loss or gradient that is not finite, or a spike of the loss, is counted and the batch is not learnt from. Returns
    the flags that any process raised, and the step's metrics.
    """
    config, step = session.config, session.step
    lr = optim.learning_rate(config.optim, step, config.train.steps) * session.loss_health.rate_factor
    health, update = session.loss_health, session.update
    result = compute_gradients(
        session.step_context,
        step,
        batch,
        health.stream("noise"),
        lambda: [*flags(), bool(batch.bad)],
        lambda: report_less_memory(session),
    )
    session.committing = update.ahead  # weights change before anything is known
    seen = update.measure(lr, result.loss_B, result.raised_F, health.largest_loss(config.train.spike))
    fault = health.diagnose(seen.loss, seen.norm, config.train.spike)
    if fault:
        skip_step(session, result, fault, seen.loss, seen.norm, lr)
    # From here on weights, averages, step and logs change one by one: until the row is written, nothing may be saved.
    session.committing = True
    if fault:  # the power-function averages are a function of the step, which counts on
        session.trainable.averages.update(session.trainable.network, step + 1)
    else:
        update(lr, seen.norm, step + 1)
        session.loss_health = health.accepted(seen.loss)
    session.trainable.optimizer.zero_grad(set_to_none=True)
    session.step += 1
    quarters = by_quarter(seen.loss_B, result.timestep_B / config.diffusion.timesteps)
    metrics = {"loss": seen.loss, **quarters, "grad_norm": seen.norm, "lr": lr, **({"skipped": 1.0} if fault else {})}
    return seen.flags, metrics


def _worker_died(session: TrainingSession, error: RuntimeError) -> MachineError:
    reason = str(error).splitlines()[0]
    saved = f"step {session.saved} is kept" if session.saved else "nothing is saved yet"
    return MachineError(
        f"a process that reads images ended or hangs: {reason} ({saved})",
        "run again with --set data.workers=0; in a container, more shared memory (--shm-size) may help",
    )
