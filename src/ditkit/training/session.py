"""TrainingSession: the nouns of one run; state to all processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL
import torch
from torch import nn

from ..checkpoint import loading
from ..checkpoint.tensors import Trainable, init_optimizer_state
from ..config import RunConfig
from ..data.batches import Batches
from ..ema import Ema, PowerEmas
from ..evaluation.judge import Judge
from ..events import OnEvent
from ..latents.codec import Codec
from ..models.dit import DiT
from ..runs.folder import RunFolder
from ..runs.logs import RunLogs
from ..runs.run_state import LossHealth, State
from ..runtime import fsdp
from ..runtime.distributed import ProcessGroup
from ..runtime.peak_flops import Utilization
from .step import StepContext
from .validation_set import ValidationSet


@dataclass(kw_only=True)
class TrainingSession:
    """The nouns of one run while it trains."""

    config: RunConfig
    folder: RunFolder
    group: ProcessGroup
    labels: tuple[str, ...]
    images: int
    fingerprint: str
    step_context: StepContext
    trainable: Trainable
    ema: Ema
    batches: Batches
    validation: ValidationSet
    codec: Codec
    logs: RunLogs
    on_event: OnEvent
    utilization: Utilization
    judge: Judge | None = None  # in the leading process, if the run is to be judged while it trains
    step: int = 0  # steps done: the only progress there is
    loss_health: LossHealth = field(default_factory=LossHealth)
    saved: int | None = None  # step of the newest checkpoint
    validated: tuple[int, float] | None = None  # step and validation loss
    bad: dict[str, None] = field(default_factory=dict)  # images that were replaced, as bad_files.txt lists them
    committing: bool = False  # weights are changing: not a moment to save

    @property
    def device(self) -> torch.device:
        return self.step_context.device

    @property
    def dtype(self) -> torch.dtype:
        return self.step_context.dtype

    @property
    def averages(self) -> PowerEmas:
        return self.trainable.averages

    def full_network(self, network: nn.Module) -> nn.Module:
        """A network to look at: itself, or a whole copy in the leading process. All processes must ask together."""
        if not self.trainable.sharded:
            return network

        def build() -> DiT:
            return loading.build_network(self.config, len(self.labels))

        return fsdp.gather_module(network, build, keep=self.group.is_main) or network


def environment(session: TrainingSession) -> dict[str, Any]:
    """What decides about the last bits, as a State has it."""
    return {
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "pillow": PIL.__version__},
        "device": str(session.device),
        "threads": torch.get_num_threads(),
        "processes": session.group.size,
        "sharded": session.trainable.sharded,
        "accumulate": session.config.train.accumulate,
        "parts": session.step_context.micro_batches,
        "compiled": session.step_context.compiled is not None,
    }


def broadcast_state(world: ProcessGroup, learner: Trainable, state: State | None) -> State | None:
    """The leading process's state, weights and optimiser in all processes."""
    state = world.broadcast(state)
    if world.size == 1 or state is None:
        return state
    has_slots = world.broadcast(bool(learner.pending.get("optimizer.safetensors") or learner.optimizer.state))
    if not has_slots:
        learner.optimizer.state.clear()
    elif not (world.is_main and learner.optimizer.state):
        init_optimizer_state(learner)
    broadcast_tensors(learner)
    return state


def broadcast_tensors(learner: Trainable) -> None:
    """Fill all tensors from those that the leading process holds, or has in its own."""
    for file, tensors in learner.tensors().items():
        for name in sorted(tensors):
            fsdp.broadcast_into(tensors[name], learner.pending.get(file, {}).get(name))
    learner.pending.clear()
