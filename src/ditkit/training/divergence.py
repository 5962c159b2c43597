"""NaN and spikes: skip, roll back, report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..checkpoint import store
from ..errors import DivergedError
from ..events import Warned
from ..io import atomic
from ..runs.run_state import LossHealth
from ..runtime.fsdp import full_tensor
from .init_weights import first_network
from .session import TrainingSession, broadcast_state, broadcast_tensors
from .step import StepResult


def report_divergence(
    session: TrainingSession, seen: StepResult, fault: str, loss: float, norm: float, rate: float
) -> Path:
    """Write RUN/diverged-step-….json: the step's losses, timesteps and images, and the norms of every layer.

    The leading process writes it, and the others help it where weights are sharded.
    """
    size, first = session.config.train.batch_size, session.step * session.config.train.batch_size
    report = {
        "step": session.step + 1,
        "fault": fault,
        "loss": _number(loss),
        "gradient_norm": _number(norm),
        "learning_rate": rate,
        "rollbacks": session.loss_health.rollbacks,
        "skipped": session.loss_health.skipped,
        "positions": [first, first + size],
        "timesteps": [_number(value) for value in seen.timestep_B.tolist()],
        "losses": [_number(value) for value in seen.loss_B.tolist()],
        "layers": {
            name: {
                "weight_norm": _number(float(full_tensor(parameter.detach().norm()))),
                "gradient_norm": None if parameter.grad is None else _number(float(full_tensor(parameter.grad.norm()))),
            }
            for name, parameter in session.trainable.network.named_parameters()
        },
    }
    path = session.folder.path / f"diverged-step-{session.step + 1:07d}.json"
    if session.group.is_main:
        atomic.write_atomically(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
    return path


def _number(value: float) -> Any:
    """JSON has no word for what is not finite."""
    return value if math.isfinite(value) else str(value)


def roll_back(session: TrainingSession) -> None:
    """Return to the newest checkpoint, or to the beginning, with other noise and half the learning rate."""
    learner, fallen = session.trainable, session.loss_health
    state = None
    if session.group.is_main:
        state = store.restore_newest(session.folder, learner, lambda _state: None, lambda _path: None)
    state = broadcast_state(session.group, learner, state)
    if state is None:
        fresh = first_network(session.config, session.labels, session.device).state_dict()
        learner.optimizer.state.clear()
        for file, tensors in learner.tensors().items():  # those of the optimiser are gone
            learner.pending[file] = {name: fresh[name.rpartition("|")[2]] for name in tensors}
        broadcast_tensors(learner)
    session.step = state.step if state else 0
    session.saved = state.step if state else None
    session.loss_health = fallen.after_rollback(state.recovery if state else LossHealth())
    session.logs.truncate(state)


def _skip(session: TrainingSession, seen: StepResult, fault: str, loss: float, norm: float, rate: float) -> None:
    """Count a step that is not learnt from, and put it on record. Raises DivergedError when there is no way on."""
    step, limits = session.step, session.config.train
    session.loss_health = session.loss_health.skipped_step()
    session.logs.append("incidents", {"step": step + 1, "what": "skipped", "why": fault, "loss": str(loss)})
    session.on_event(Warned(step=step + 1, text=f"step {step + 1} is skipped: {fault}"))
    if session.loss_health.skips < limits.max_skips or session.loss_health.rollbacks < limits.rollbacks:
        return
    place = report_divergence(session, seen, fault, loss, norm, rate)
    kept = f"step {session.saved} is kept" if session.saved else "nothing is saved yet"
    raise DivergedError(
        f"training diverged at step {step + 1}: {fault}, {session.loss_health.skips} steps in a row, after going back "
        f"{session.loss_health.rollbacks} times; learning rate {rate:.3g} ({kept}; report in {place})",
        f"start again with a lower rate, e.g. --fresh --lr {rate / 3:.2g}, or let `ditkit lr-find` choose one",
    )


def _recover(session: TrainingSession) -> None:
    fallen = session.step
    roll_back(session)
    text = (
        f"{session.config.train.max_skips} steps in a row went wrong up to step {fallen}: back to step {session.step}, "
        f"with other noise and {session.loss_health.rate_factor:g} of the learning rate "
        f"(time {session.loss_health.rollbacks} of {session.config.train.rollbacks})"
    )
    session.logs.append("incidents", {"step": fallen, "what": "went back", "to": session.step})
    session.on_event(Warned(step=session.step, text=text))


def _tell_of_memory(session: TrainingSession) -> None:
    parts = session.step_context.micro_batches
    text = f"out of memory at step {session.step + 1}: batches are now split into {parts} parts"
    if session.trainable.network.recompute:
        text += ", and activations computed twice"
    session.logs.append("incidents", {"step": session.step + 1, "what": text})
    session.on_event(Warned(step=session.step + 1, text=text))
