"""What happens when training goes wrong: a step is skipped, the run rolled back, a divergence reported."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..checkpoint import store
from ..checkpoint.tensors import broadcast_state, broadcast_tensors
from ..errors import DivergedError
from ..events import Warned
from ..io import atomic
from ..runs.run_state import LossHealth
from ..runtime.fsdp import full_tensor
from .init_weights import first_network
from .session import TrainingSession
from .step import StepResult


def report_divergence(
    session: TrainingSession, result: StepResult, fault: str, loss: float, norm: float, lr: float
) -> Path:
    """Write RUN/diverged-step-….json: the step's losses, timesteps and images, and the norms of every layer.

    The main process writes it; all must call this together, because sharded weights are gathered.
    """
    size, first = session.config.train.batch_size, session.step * session.config.train.batch_size
    report = {
        "step": session.step + 1,
        "fault": fault,
        "loss": _number(loss),
        "gradient_norm": _number(norm),
        "learning_rate": lr,
        "rollbacks": session.loss_health.rollbacks,
        "skipped": session.loss_health.skipped,
        "positions": [first, first + size],
        "timesteps": [_number(value) for value in result.timestep_B.tolist()],
        "losses": [_number(value) for value in result.loss_B.tolist()],
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
    """A number, or a string where it is not finite: JSON has no such numbers."""
    return value if math.isfinite(value) else str(value)


def roll_back(session: TrainingSession) -> None:
    """Return to the newest checkpoint, or to the start, with other noise and half the learning rate."""
    trainable, before = session.trainable, session.loss_health
    state = None
    if session.group.is_main:
        state = store.restore_newest(session.folder, trainable, lambda _state: None, lambda _path: None)
    state = broadcast_state(session.group, trainable, state)
    if state is None:
        fresh = first_network(session.config, session.labels, session.device, session.folder).state_dict()
        trainable.optimizer.state.clear()
        # Averages too start from the fresh weights; the names of theirs are length|name.
        for file, tensors in trainable.tensors().items():
            trainable.pending[file] = {name: fresh[name.rpartition("|")[2]] for name in tensors}
        broadcast_tensors(trainable)
    session.step = state.step if state else 0
    session.saved = state.step if state else None
    session.loss_health = before.after_rollback(state.recovery if state else LossHealth())
    session.logs.truncate(state)


def skip_step(session: TrainingSession, result: StepResult, fault: str, loss: float, norm: float, lr: float) -> None:
    """Count a step that is not learnt from, and log it. Raises DivergedError when no rollback is left."""
    step, limits = session.step, session.config.train
    session.loss_health = session.loss_health.skipped_step()
    session.logs.append("incidents", {"step": step + 1, "what": "skipped", "why": fault, "loss": str(loss)})
    session.on_event(Warned(step=step + 1, text=f"step {step + 1} is skipped: {fault}"))
    if session.loss_health.skips < limits.max_skips or session.loss_health.rollbacks < limits.rollbacks:
        return
    path = report_divergence(session, result, fault, loss, norm, lr)
    saved = f"step {session.saved} is kept" if session.saved else "nothing is saved yet"
    raise DivergedError(
        f"training diverged at step {step + 1}: {fault}, {session.loss_health.skips} steps in a row, after going back "
        f"{session.loss_health.rollbacks} times; learning rate {lr:.3g} ({saved}; report in {path})",
        f"start again with a lower rate, e.g. --fresh --lr {lr / 3:.2g}, or see what `ditkit lr-find` shows",
    )


def recover(session: TrainingSession) -> None:
    """Roll back after too many skipped steps in a row, and log it."""
    failed = session.step
    roll_back(session)
    text = (
        f"{session.config.train.max_skips} steps in a row went wrong up to step {failed}: back to step {session.step}, "
        f"with other noise and {session.loss_health.rate_factor:g} of the learning rate "
        f"(time {session.loss_health.rollbacks} of {session.config.train.rollbacks})"
    )
    session.logs.append("incidents", {"step": failed, "what": "went back", "to": session.step})
    session.on_event(Warned(step=session.step, text=text))


def report_less_memory(session: TrainingSession) -> None:
    """Log that memory ran out and what is done about it."""
    parts = session.step_context.micro_batches
    text = f"out of memory at step {session.step + 1}: batches are now split into {parts} parts"
    if session.trainable.network.recompute:
        text += ", and activations computed twice"
    session.logs.append("incidents", {"step": session.step + 1, "what": text})
    session.on_event(Warned(step=session.step + 1, text=text))
