"""Training: one flat loop that speaks in events and can be stopped and continued at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import checkpoint, optim, run_folder
from .card import Card
from .config import RunConfig
from .data.batches import Batches
from .data.contract import open_dataset
from .device import autocast, find_device, find_dtype, memory_mb
from .ema import Ema
from .errors import DitkitError
from .events import Event, Finished, OnEvent, Sampled, Saved, SetAside, Started, Stepped, Validated
from .metrics import MetricsFile
from .models.dit import DiT
from .objectives.contract import Objective, open_objective
from .previews import ValidationSet, draw_grid
from .run_folder import RunFolder
from .seeding import generator


def _ignore(event: Event) -> None:
    pass


def _never() -> bool:
    return False


@dataclass(kw_only=True)
class Session:
    """The nouns of one run while it trains."""

    config: RunConfig
    folder: RunFolder
    labels: tuple[str, ...]
    images: int
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    network: DiT
    ema: Ema
    optimizer: torch.optim.AdamW
    objective: Objective
    batches: Batches
    validation: ValidationSet
    metrics: MetricsFile
    timing: MetricsFile
    on_event: OnEvent
    saved: int | None = None  # step of the newest checkpoint


def train(
    config: RunConfig,
    folder: str | Path,
    on_event: OnEvent = _ignore,
    *,
    device: str = "auto",
    dtype: str = "auto",
    max_seconds: float | None = None,
    should_stop: Callable[[], bool] = _never,
) -> Path:
    """Train in `folder` until all steps are done, `max_seconds` have passed or `should_stop()`; returns the folder.

    A run that is there already continues from its newest checkpoint, and ends exactly as if it had never stopped.
    Raises DitkitError for what the user can mend: other settings than the run has, missing data, a full disk, a loss
    that is no longer finite.
    """
    prepared = run_folder.prepare(config, Path(folder))
    with run_folder.lock(prepared.folder):
        session, step = open_session(prepared.config, prepared.folder, on_event, device, dtype)
        try:
            _loop(session, step, max_seconds if max_seconds is not None else math.inf, should_stop)
        finally:
            session.metrics.close()
            session.timing.close()
    return prepared.folder.path


def _loop(session: Session, step: int, max_seconds: float, should_stop: Callable[[], bool]) -> None:
    config, started = session.config, time.monotonic()
    session.on_event(_started(session, step))
    batches = session.batches.iterate(step)
    reason = "done"
    while step < config.train.steps:
        before = time.monotonic()
        try:
            x_BCHW, label_B = next(batches)
        except DitkitError:  # an image that cannot be read: the steps so far are kept
            save(session, step)
            raise
        metrics = take_step(session, step, x_BCHW, label_B)
        step += 1
        log(session, step, metrics, time.monotonic() - before, time.monotonic() - started)
        last = step == config.train.steps
        if last or step % config.train.validate_every == 0:
            validate(session, step)
        if last or step % config.train.sample_every == 0:
            show(session, step)
        if last or step % config.train.save_every == 0:
            save(session, step)
        if not last and (should_stop() or time.monotonic() - started > max_seconds):
            reason = "stopped" if should_stop() else "time"
            save(session, step)
            break
    batches.close()
    seconds = time.monotonic() - started
    session.on_event(
        Finished(step=step, steps=config.train.steps, seconds=seconds, reason=reason, folder=session.folder.path)
    )


def open_session(
    config: RunConfig, folder: RunFolder, on_event: OnEvent, device_name: str = "auto", dtype_name: str = "auto"
) -> tuple[Session, int]:
    """Open the data, build the network and put the newest checkpoint back; returns the steps already done."""
    device = find_device(device_name)
    dataset = open_dataset(config.data, "train")
    objective = open_objective(config.diffusion)
    validation = ValidationSet(open_dataset(config.data, "validation"), objective, config.seed)
    network = fresh_network(config, len(dataset.labels), device)
    ema = Ema(network, config.optim.ema_decay)
    optimizer = optim.adamw(network, config.optim)
    found = checkpoint.newest_state(folder, lambda path: on_event(SetAside(path=path)))
    if found:
        path, state = found
        if (state.fingerprint, state.labels) != (dataset.fingerprint, dataset.labels):
            raise DitkitError(
                f"the images have changed since {folder.path} was started",
                "put them back, or start another run with --fresh",
            )
        checkpoint.restore(path, network, ema.network, optimizer)
    state = found[1] if found else None
    session = Session(
        config=config,
        folder=folder,
        labels=dataset.labels,
        images=len(dataset),
        fingerprint=dataset.fingerprint,
        device=device,
        dtype=find_dtype(dtype_name, device),
        network=network,
        ema=ema,
        optimizer=optimizer,
        objective=objective,
        batches=Batches(
            dataset, config.train.batch_size, config.seed, flip=config.data.flip, workers=config.data.workers
        ),
        validation=validation,
        metrics=MetricsFile(folder.metrics_file, state.metrics_bytes if state else 0),
        timing=MetricsFile(folder.timing_file, state.timing_bytes if state else 0),
        on_event=on_event,
        saved=state.step if state else None,
    )
    return session, state.step if state else 0


def fresh_network(config: RunConfig, labels: int, device: torch.device) -> DiT:
    """A network whose weights are a function of the run's seed alone, on any device."""
    with torch.random.fork_rng(devices=[]):
        network = checkpoint.build_network(config, labels)
    network.initialize(generator(config.seed, "weights"))
    return network.to(device)


def take_step(session: Session, step: int, x_BCHW: Tensor, label_B: Tensor) -> dict[str, float]:
    """One optimiser step on one global batch; every random number is a function of (seed, step).

    Raises DitkitError, before anything is changed, when the loss or the gradient is not finite.
    """
    config, network = session.config, session.network
    rate = optim.learning_rate(config.optim, step, config.train.steps)
    x_BCHW = x_BCHW.to(session.device, non_blocking=True)
    label_B = drop_labels(label_B, len(session.labels), config.diffusion.label_drop, config.seed, step)
    label_B = label_B.to(session.device, non_blocking=True)
    timestep_B, noise_BCHW = draw_case(session.objective, x_BCHW, config.seed, "noise", step)
    part = len(x_BCHW) // config.train.accumulate
    losses: list[Tensor] = []
    for tensors in zip(*(one.split(part) for one in (x_BCHW, label_B, timestep_B, noise_BCHW)), strict=True):
        with autocast(session.device, session.dtype):
            loss_b = session.objective.loss_at(network, *tensors)
        (loss_b.sum() / len(x_BCHW)).backward()
        losses.append(loss_b.detach())
    loss_B = torch.cat(losses)
    loss, norm = float(loss_B.mean()), optim.clip(network, config.optim.clip)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise _diverged(session, step, loss, norm, rate)
    optim.set_rate(session.optimizer, rate)
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    session.ema.update(network, step + 1)
    quarters = by_quarter(loss_B, timestep_B / config.diffusion.timesteps)
    return {"loss": loss, **quarters, "grad_norm": norm, "lr": rate}


def draw_case(objective: Objective, x_BCHW: Tensor, seed: int, stream: str, step: int) -> tuple[Tensor, Tensor]:
    """Timesteps (B,) and noise (B, C, H, W) for images, on their device; the timesteps are the same on any device."""
    source, device = generator(seed, stream, step), x_BCHW.device
    timestep_B = objective.draw_timesteps(len(x_BCHW), source).to(device)
    if device.type != "cpu":  # noise is drawn where it is needed: much faster than moving it
        source = generator(seed, stream, step, device)
    return timestep_B, torch.randn(x_BCHW.shape, generator=source, device=device)


def drop_labels(label_B: Tensor, null_label: int, probability: float, seed: int, step: int) -> Tensor:
    """Replace labels by the null label with a probability (classifier-free guidance, Ho & Salimans 2022)."""
    dropped_B = torch.rand(label_B.shape, generator=generator(seed, "label drop", step)) < probability
    return label_B.masked_fill(dropped_B, null_label)


def by_quarter(loss_B: Tensor, noise_B: Tensor) -> dict[str, float]:
    """Mean loss of each quarter of the noise range that has samples, as loss_q1 (least noise) … loss_q4."""
    quarter_B = (noise_B.float() * 4).long().clamp(0, 3).cpu().numpy()
    values_B = loss_B.cpu().numpy().astype(np.float64)
    present = sorted(set(quarter_B.tolist()))
    return {f"loss_q{quarter + 1}": float(values_B[quarter_B == quarter].mean()) for quarter in present}


def log(session: Session, step: int, metrics: dict[str, float], seconds: float, since_start: float) -> None:
    """Write a step's rows and tell the listeners. Wall-clock figures go to timing.jsonl: metrics are reproducible."""
    per_second = session.config.train.batch_size / max(seconds, 1e-9)
    if step % session.config.train.log_every == 0 or step == session.config.train.steps:
        session.metrics.append({"step": step, **{key: float(f"{value:.7g}") for key, value in metrics.items()}})
        timing = {"images_per_second": round(per_second, 2), "seconds": round(since_start, 2)}
        session.timing.append({"step": step, **timing, "memory_mb": round(memory_mb(session.device), 1)})
    session.on_event(
        Stepped(step=step, loss=metrics["loss"], lr=metrics["lr"], images_per_second=per_second, metrics=metrics)
    )


def validate(session: Session, step: int) -> None:
    """Measure the validation loss with the EMA weights and the raw ones, if images are held out."""
    if not len(session.validation):
        return
    ema, raw = (
        session.validation.loss(network, session.device, session.dtype, session.config.train.batch_size)
        for network in (session.ema.network, session.network)
    )
    if math.isfinite(ema) and math.isfinite(raw):
        rounded = {"validation_loss": float(f"{ema:.7g}"), "validation_loss_raw": float(f"{raw:.7g}")}
        session.metrics.append({"step": step, **rounded})
    session.on_event(Validated(step=step, loss=ema))


def show(session: Session, step: int) -> None:
    """Draw the sample grid of a step."""
    path = session.folder.samples / f"step-{step:07d}.png"
    networks: tuple[nn.Module, nn.Module] = (session.network.eval(), session.ema.network)
    draw_grid(session.config, session.labels, *networks, path, step, session.device)
    session.network.train()
    session.on_event(Sampled(step=step, path=path))


def save(session: Session, step: int) -> None:
    """Write the checkpoint of a step durably, then drop the oldest."""
    if session.saved == step or step == 0:
        return
    state = checkpoint.State(
        step=step,
        metrics_bytes=session.metrics.sync(),
        timing_bytes=session.timing.sync(),
        fingerprint=session.fingerprint,
        labels=session.labels,
        versions={"torch": torch.__version__, "numpy": np.__version__, "threads": str(torch.get_num_threads())},
    )
    path = checkpoint.save(
        session.folder,
        card=Card(config=session.config, labels=session.labels, step=step),
        state=state,
        network=session.network,
        ema=session.ema.network,
        optimizer=session.optimizer,
    )
    session.saved = step
    session.on_event(Saved(step=step, path=path))
    checkpoint.prune(session.folder, session.config.train.keep)


def _started(session: Session, step: int) -> Started:
    return Started(
        folder=session.folder.path,
        step=step,
        steps=session.config.train.steps,
        device=str(session.device),
        dtype=str(session.dtype).removeprefix("torch."),
        parameters=sum(parameter.numel() for parameter in session.network.parameters()),
        images=session.images,
        labels=session.labels,
    )


def _diverged(session: Session, step: int, loss: float, norm: float, rate: float) -> DitkitError:
    kept = f"step {session.saved} is kept" if session.saved else "nothing is saved yet"
    return DitkitError(
        f"training diverged at step {step + 1}: loss {loss:.4g}, gradient norm {norm:.4g}, learning rate {rate:.3g} "
        f"({kept})",
        f"start again with a lower rate, e.g. --fresh --lr {rate / 3:.2g}, or let `ditkit lr-find` choose one",
    )
