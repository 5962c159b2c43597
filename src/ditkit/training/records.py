"""What a run writes of each step and of its start: rows of metrics.jsonl and timing.jsonl, and events."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from ..events import Started, Stepped
from ..kernels.choice import name
from ..runtime.device import memory_mb
from .session import TrainingSession


def by_quarter(loss_B: Tensor, noise_B: Tensor) -> dict[str, float]:
    """Mean loss of each quarter of the noise range [0, 1] that has samples, as loss_q1 (least noise) … loss_q4."""
    quarter_B = (noise_B.float() * 4).long().clamp(0, 3).cpu().numpy()
    values_B = loss_B.cpu().numpy().astype(np.float64)
    present = sorted(set(quarter_B.tolist()))
    return {f"loss_q{quarter + 1}": float(values_B[quarter_B == quarter].mean()) for quarter in present}


def record_step(session: TrainingSession, metrics: dict[str, float], seconds: float, since_start: float) -> None:
    """Write a step's rows and send its event. Wall-clock figures go to timing.jsonl: metrics.jsonl is reproducible."""
    step, config = session.step, session.config.train
    per_second = config.batch_size / max(seconds, 1e-9)
    used = session.utilization.of_peak(per_second)
    if step % config.log_every == 0:
        session.logs.append("metrics", metrics_row(step, metrics))
        timing = {"images_per_second": round(per_second, 2), "seconds": round(since_start, 2)}
        if used is not None:
            timing["utilisation"] = float(f"{used:.3g}")
        session.logs.append("timing", {"step": step, **timing, "memory_mb": round(memory_mb(session.device), 1)})
    loss, lr = metrics["loss"], metrics["lr"]
    session.on_event(
        Stepped(step=step, loss=loss, lr=lr, images_per_second=per_second, utilisation=used, metrics=metrics)
    )


def metrics_row(step: int, metrics: dict[str, float]) -> dict[str, float]:
    """A row of metrics.jsonl: seven digits, and finite numbers only, as JSON has no others."""
    return {"step": step, **{key: float(f"{value:.7g}") for key, value in metrics.items() if math.isfinite(value)}}


def started_event(session: TrainingSession) -> Started:
    """The event of a run that is about to take its first step."""
    several = f" × {session.group.size}" if session.group.size > 1 else ""
    sharded = ", sharded" if session.trainable.sharded else ""
    compiled = ", compiled" if session.step_context.compiled else ""
    kernels = ", kernels" if session.compute.kernels else ""
    return Started(
        folder=session.folder.path,
        step=session.step,
        steps=session.config.train.steps,
        device=f"{session.device}{several}{sharded}{compiled}{kernels}",
        dtype=name(session.compute.dtype),
        kernels=session.compute.why if session.device.type == "cpu" else "",
        parameters=sum(parameter.numel() for parameter in session.trainable.network.parameters()),
        images=session.images,
        labels=session.labels,
    )
