"""What is written down when training gives up: enough to see why, without running it again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from . import durable
from .session import Session
from .sharding import whole
from .steps import Seen


def report_divergence(session: Session, seen: Seen, fault: str, loss: float, norm: float, rate: float) -> Path:
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
        "rollbacks": session.recovery.rollbacks,
        "skipped": session.recovery.skipped,
        "positions": [first, first + size],
        "timesteps": [_number(value) for value in seen.timestep_B.tolist()],
        "losses": [_number(value) for value in seen.loss_B.tolist()],
        "layers": {
            name: {
                "weight_norm": _number(float(whole(parameter.detach().norm()))),
                "gradient_norm": None if parameter.grad is None else _number(float(whole(parameter.grad.norm()))),
            }
            for name, parameter in session.learner.network.named_parameters()
        },
    }
    path = session.folder.path / f"diverged-step-{session.step + 1:07d}.json"
    if session.world.leads:
        durable.write_atomically(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
    return path


def _number(value: float) -> Any:
    """JSON has no word for what is not finite."""
    return value if math.isfinite(value) else str(value)
