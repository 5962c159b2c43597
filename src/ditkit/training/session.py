"""TrainingSession: the nouns of one run; state to all processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL
import torch
from torch import nn

from ..checkpoint import loading
from ..checkpoint.tensors import Learner, empty_slots
from ..config import RunConfig
from ..data.batches import Batches
from ..ema import Ema, PowerEmas
from ..evaluation.judge import Judge
from ..events import OnEvent
from ..latents.codec import Codec
from ..models.dit import DiT
from ..runs.folder import RunFolder
from ..runs.logs import Journal
from ..runs.run_state import Recovery, State
from ..runtime import fsdp
from ..runtime.distributed import World
from ..runtime.peak_flops import Gauge
from .step import Worker
from .validation_set import ValidationSet


@dataclass(kw_only=True)
class Session:
    """The nouns of one run while it trains."""

    config: RunConfig
    folder: RunFolder
    world: World
    labels: tuple[str, ...]
    images: int
    fingerprint: str
    worker: Worker
    learner: Learner
    ema: Ema
    batches: Batches
    validation: ValidationSet
    codec: Codec
    journal: Journal
    on_event: OnEvent
    gauge: Gauge
    judge: Judge | None = None  # in the leading process, if the run is to be judged while it trains
    step: int = 0  # steps done: the only progress there is
    recovery: Recovery = field(default_factory=Recovery)
    saved: int | None = None  # step of the newest checkpoint
    validated: tuple[int, float] | None = None  # step and validation loss
    bad: dict[str, None] = field(default_factory=dict)  # images that were replaced, as bad_files.txt lists them
    committing: bool = False  # weights are changing: not a moment to save

    @property
    def device(self) -> torch.device:
        return self.worker.device

    @property
    def dtype(self) -> torch.dtype:
        return self.worker.dtype

    @property
    def averages(self) -> PowerEmas:
        return self.learner.averages

    def whole(self, network: nn.Module) -> nn.Module:
        """A network to look at: itself, or a whole copy in the leading process. All processes must ask together."""
        if not self.learner.sharded:
            return network

        def build() -> DiT:
            return loading.build_network(self.config, len(self.labels))

        return fsdp.gathered(network, build, keep=self.world.leads) or network


def surroundings(session: Session) -> dict[str, Any]:
    """What decides about the last bits, as a State has it."""
    return {
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "pillow": PIL.__version__},
        "device": str(session.device),
        "threads": torch.get_num_threads(),
        "processes": session.world.size,
        "sharded": session.learner.sharded,
        "accumulate": session.config.train.accumulate,
        "parts": session.worker.parts,
        "compiled": session.worker.compiled is not None,
    }


def spread(world: World, learner: Learner, state: State | None) -> State | None:
    """The leading process's state, weights and optimiser in all processes."""
    state = world.tell(state)
    if world.size == 1 or state is None:
        return state
    has_slots = world.tell(bool(learner.held.get("optimizer.safetensors") or learner.optimizer.state))
    if not has_slots:
        learner.optimizer.state.clear()
    elif not (world.leads and learner.optimizer.state):
        empty_slots(learner)
    hand_out(learner)
    return state


def hand_out(learner: Learner) -> None:
    """Fill all tensors from those that the leading process holds, or has in its own."""
    for file, tensors in learner.tensors().items():
        for name in sorted(tensors):
            fsdp.take_from_first(tensors[name], learner.held.get(file, {}).get(name))
    learner.held.clear()
