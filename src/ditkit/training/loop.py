"""Train(): the flat loop, events out."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Generator, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from .. import optim
from ..config import RunConfig, from_dict, to_dict
from ..data import workers
from ..data.batches import Batch
from ..data.contract import Datasets
from ..errors import DataError, MachineError, PeerError
from ..events import Event, Finished, OnEvent, Started, Stepped
from ..latents.cache import Interrupted
from ..runs.folder import RunFolder
from ..runs.resume import ClaimedRun, start_or_resume
from ..runtime.device import memory_mb
from ..runtime.distributed import ProcessGroup, join
from ..runtime.watchdog import is_lost
from .divergence import _recover, _skip, _tell_of_memory
from .previews import judge, show, validate
from .saving import emergency_save, save, take_snapshot
from .session import TrainingSession
from .setup import note_bad, open_session
from .step import SpeedOptions, compute_gradients


def by_quarter(loss_B: Tensor, noise_B: Tensor) -> dict[str, float]:
    """Mean loss of each quarter of the noise range that has samples, as loss_q1 (least noise) … loss_q4."""
    quarter_B = (noise_B.float() * 4).long().clamp(0, 3).cpu().numpy()
    values_B = loss_B.cpu().numpy().astype(np.float64)
    present = sorted(set(quarter_B.tolist()))
    return {f"loss_q{quarter + 1}": float(values_B[quarter_B == quarter].mean()) for quarter in present}


_STOP, _LATE, _BAD = 0, 1, 2  # flags that any process may raise in a step


def _ignore(event: Event) -> None:
    pass


def _never() -> bool:
    return False


def train(
    config: RunConfig,
    folder: str | Path,
    on_event: OnEvent = _ignore,
    *,
    device: str = "auto",
    dtype: str = "auto",
    max_seconds: float | None = None,
    should_stop: Callable[[], bool] = _never,
    force_change: Collection[str] = (),
    speed: SpeedOptions = SpeedOptions(),
    datasets: Datasets | None = None,
    claimed: ClaimedRun | None = None,
) -> Path:
    """Train in `folder` until all steps are done, `max_seconds` have passed or `should_stop()`; returns the folder.

    A run that is there already continues from its newest checkpoint, and ends as if it had never stopped, on a CPU to
    the last bit; `force_change` names settings ("optim.lr", "images") that may differ from what it was started with.
    Launched as several processes (torchrun), they share each batch, with `speed.shard` the weights too; each hears its
    own events, and all end when one fails. `datasets` are those of the config, where they are open already; `claimed`
    is the run in `folder`, where the caller is inside of `start_or_resume`. Raises DitkitError for what the user can
    mend: other settings than the run has, missing data, a full disk, a loss that stays not finite.
    """

    def seconds_left() -> float:
        return (math.inf if max_seconds is None else max_seconds) - (time.monotonic() - began)

    def cannot_go_on() -> bool:
        return should_stop() or seconds_left() < 0

    with (
        join(device) as (world, where),
        _claimed(world, claimed, config, Path(folder), force_change) as run,
    ):
        began = time.monotonic()  # once all are here: the first one may have measured a learning rate before
        try:
            session = open_session(
                run.config, run.folder, world, on_event, where, dtype, force_change, cannot_go_on, speed, datasets
            )
        except Interrupted:
            if world.size > 1:
                raise PeerError(143) from None  # not all of them notice at the same place
            done = {"step": run.folder.last_step(), "steps": run.config.train.steps, "folder": run.folder.path}
            reason = "stopped" if should_stop() else "time"
            on_event(Finished(**done, seconds=time.monotonic() - began, reason=reason))
            return run.folder.path
        try:
            if world.is_main and run.written != run.config:
                run.folder.write_config(run.config)
            _train(session, seconds_left(), should_stop)
        finally:
            session.logs.close()
    return run.folder.path


@contextlib.contextmanager
def _claimed(
    world: ProcessGroup, claimed: ClaimedRun | None, config: RunConfig, path: Path, force_change: Collection[str]
) -> Iterator[ClaimedRun]:
    """The run, which the leading process starts or continues, and keeps locked, unless its caller has done so."""
    with contextlib.ExitStack() as stack:
        if world.is_main:
            claimed = claimed or stack.enter_context(start_or_resume(config, path, force_change=force_change))
            config, path = claimed.config, claimed.folder.path
        tree, place, step = world.broadcast((to_dict(config), str(path), claimed.step if claimed else 0))
        config = from_dict(tree)
        yield claimed or ClaimedRun(folder=RunFolder(Path(place)), config=config, written=config, step=step)


def _train(session: TrainingSession, max_seconds: float, should_stop: Callable[[], bool]) -> None:
    started = time.monotonic()
    session.on_event(_started(session))

    def flags() -> list[bool]:
        return [should_stop(), time.monotonic() - started > max_seconds]

    reason = "stopped" if any(session.group.all_gather(should_stop())) else ""
    try:
        while not reason:
            stream = workers.iterate(session.batches, session.step, session.config.data)
            with contextlib.closing(stream) as batches:
                reason = _steps(session, batches, flags, started)
            if not reason:
                _recover(session)
    except PeerError:
        emergency_save(session)
        raise
    except RuntimeError as error:
        if is_lost(error):
            emergency_save(session)
        if not workers.lost_a_worker(error):
            raise
        if session.committing or not should_stop() or session.group.size > 1:
            raise _worker_died(session, error) from None
        reason = "stopped"  # the signal reached a worker that did not yet ignore it
    if reason != "done":
        save(session)
    seconds = time.monotonic() - started
    steps, folder = session.config.train.steps, session.folder.path
    session.on_event(Finished(step=session.step, steps=steps, seconds=seconds, reason=reason, folder=folder))


def _steps(
    session: TrainingSession, batches: Generator[Batch, None, None], flags: Callable[[], list[bool]], started: float
) -> str:
    """Step until the end ("done"), a stop ("stopped", "time"), or too many faults in a row ("")."""
    config = session.config.train
    while session.step < config.steps:
        before = time.monotonic()
        batch = _next(session, batches)
        raised, metrics = take_step(session, batch, flags)
        log(session, metrics, time.monotonic() - before, time.monotonic() - started)
        session.committing = False
        if raised[_BAD]:
            _note_bad(session, batch)
        if session.loss_health.skips >= config.max_skips:
            return ""
        last = session.step == config.steps
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
            save(session)
        if session.group.size == 1:  # several processes agreed during the step; one need not wait for the next
            raised = flags()
        if not last and (raised[_STOP] or raised[_LATE]):
            return "stopped" if raised[_STOP] else "time"
    return "done"


def _round_off(session: TrainingSession, metrics: dict[str, float]) -> None:
    """Rows that only the end asks for; a run that is continued beyond it drops them, as it would not have them."""
    session.logs.mark()
    if session.step % session.config.train.log_every:
        session.logs.append("metrics", _row(session.step, metrics))
    if session.step % session.config.train.validate_every:
        validate(session)


def _next(session: TrainingSession, batches: Generator[Batch, None, None]) -> Batch:
    """The next batch; when there is none to be had, the steps so far are kept."""
    try:
        return next(batches)
    except DataError:
        emergency_save(session)
        raise


def _note_bad(session: TrainingSession, batch: Batch) -> None:
    try:
        note_bad(session, batch.bad)
    except DataError:
        emergency_save(session)
        raise


def take_step(
    session: TrainingSession, batch: Batch, flags: Callable[[], list[bool]]
) -> tuple[list[bool], dict[str, float]]:
    """One optimiser step on one global batch; every random number is a function of (seed, step).

    A loss or gradient that is not finite, or a spike of the loss, is counted and not learnt from.
    """
    config, network, step = session.config, session.trainable.network, session.step
    rate = optim.learning_rate(config.optim, step, config.train.steps) * session.loss_health.rate_factor
    seen = compute_gradients(
        session.step_context,
        step,
        batch,
        session.loss_health.stream("noise"),
        lambda: [*flags(), bool(batch.bad)],
        lambda: _tell_of_memory(session),
    )
    loss, norm = float(seen.loss_B.mean()), optim.norm(network)
    fault = session.loss_health.diagnose(loss, norm, config.train.spike)
    if fault:
        _skip(session, seen, fault, loss, norm, rate)
    session.committing = True  # until the step is logged
    if not fault:
        optim.clip(network, config.optim.clip, norm)
        optim.set_rate(session.trainable.optimizer, rate)
        session.trainable.optimizer.step()
        session.ema.update(network, step + 1)
        session.loss_health = session.loss_health.accepted(loss)
    session.averages.update(network, step + 1)  # also when nothing was learnt: they count steps
    session.trainable.optimizer.zero_grad(set_to_none=True)
    session.step += 1
    quarters = by_quarter(seen.loss_B, seen.timestep_B / config.diffusion.timesteps)
    metrics = {"loss": loss, **quarters, "grad_norm": norm, "lr": rate, **({"skipped": 1.0} if fault else {})}
    return seen.flags, metrics


def log(session: TrainingSession, metrics: dict[str, float], seconds: float, since_start: float) -> None:
    """Write a step's rows and tell the listeners. Wall-clock figures go to timing.jsonl: metrics are reproducible."""
    step, config = session.step, session.config.train
    per_second = config.batch_size / max(seconds, 1e-9)
    used = session.utilization.of_peak(per_second)
    if step % config.log_every == 0:
        session.logs.append("metrics", _row(step, metrics))
        timing = {"images_per_second": round(per_second, 2), "seconds": round(since_start, 2)}
        if used is not None:
            timing["utilisation"] = float(f"{used:.3g}")
        session.logs.append("timing", {"step": step, **timing, "memory_mb": round(memory_mb(session.device), 1)})
    session.on_event(
        Stepped(
            step=step,
            loss=metrics["loss"],
            lr=metrics["lr"],
            images_per_second=per_second,
            utilisation=used,
            metrics=metrics,
        )
    )


def _row(step: int, metrics: dict[str, float]) -> dict[str, float]:
    """A row of metrics.jsonl: seven digits, and nothing that JSON cannot say."""
    return {"step": step, **{key: float(f"{value:.7g}") for key, value in metrics.items() if math.isfinite(value)}}


def _started(session: TrainingSession) -> Started:
    return Started(
        folder=session.folder.path,
        step=session.step,
        steps=session.config.train.steps,
        device=_devices(session),
        dtype=str(session.dtype).removeprefix("torch."),
        parameters=sum(parameter.numel() for parameter in session.trainable.network.parameters()),
        images=session.images,
        labels=session.labels,
    )


def _devices(session: TrainingSession) -> str:
    several = f" × {session.group.size}" if session.group.size > 1 else ""
    sharded = ", sharded" if session.trainable.sharded else ""
    return f"{session.device}{several}{sharded}" + (", compiled" if session.step_context.compiled else "")


def _worker_died(session: TrainingSession, error: RuntimeError) -> MachineError:
    first = str(error).splitlines()[0]
    kept = f"step {session.saved} is kept" if session.saved else "nothing is saved yet"
    return MachineError(
        f"a process that reads images ended or hangs: {first} ({kept})",
        "run again with --set data.workers=0; in a container, more shared memory (--shm-size) may help",
    )
