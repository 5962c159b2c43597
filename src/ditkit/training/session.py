"""TrainingSession: the nouns of one run while it trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL
import torch
from torch import nn

from ..checkpoint import loading
from ..checkpoint.tensors import Trainable
from ..config import RunConfig
from ..data.batches import Batches
from ..evaluation.judge import Judge
from ..events import OnEvent
from ..kernels import library
from ..kernels.choice import Compute, name
from ..kernels.update import WeightUpdate
from ..latents.codec import Codec
from ..models.dit import DiT
from ..runs.folder import RunFolder
from ..runs.logs import RunLogs
from ..runs.run_state import LossHealth
from ..runtime import fsdp
from ..runtime.device import gpu_model
from ..runtime.distributed import ProcessGroup
from ..runtime.load import LoadWatch
from ..runtime.peak_flops import Utilization
from .step import StepContext
from .validation_set import ValidationSet


@dataclass(kw_only=True)
class TrainingSession:
    """Everything that a run consists of while it trains; the functions of this package work on it."""

    config: RunConfig
    folder: RunFolder
    group: ProcessGroup
    labels: tuple[str, ...]
    images: int
    fingerprint: str  # of the data set
    step_context: StepContext
    trainable: Trainable
    update: WeightUpdate
    batches: Batches
    validation: ValidationSet
    codec: Codec
    logs: RunLogs
    on_event: OnEvent
    utilization: Utilization
    load: LoadWatch | None = None  # where it decides how many threads compute
    judge: Judge | None = None  # in the main process, if the run is evaluated while it trains
    step: int = 0  # steps done: the only progress there is
    loss_health: LossHealth = field(default_factory=LossHealth)
    saved: int | None = None  # step of the newest checkpoint
    validated: tuple[int, float] | None = None  # step and validation loss
    bad: dict[str, None] = field(default_factory=dict)  # images that were replaced, as bad_files.txt lists them
    replaced: set[int] = field(default_factory=set)  # their indices
    committing: bool = False  # weights and logs are not of one step now: not a moment to save

    @property
    def device(self) -> torch.device:
        return self.step_context.device

    @property
    def compute(self) -> Compute:
        return self.step_context.compute

    def full_network(self, network: nn.Module) -> nn.Module:
        """The network itself, or a whole copy of a sharded one in the main process, not to be trained.

        All processes must call it together: each holds a part of every tensor and sends it to the main one.
        """
        if not self.trainable.sharded:
            return network

        def build() -> DiT:
            return loading.build_network(self.config, len(self.labels))

        return fsdp.gather_module(network, build, keep=self.group.is_main) or network


def environment(session: TrainingSession) -> dict[str, Any]:
    """What decides the last bits of a run, as the fields of a State."""
    return {
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "pillow": PIL.__version__}
        | gpu_model(session.device)
        | ({"kernel library": library.fingerprint()} if session.compute.kernels else {}),
        "device": str(session.device),
        "threads": torch.get_num_threads(),
        "processes": session.group.size,
        "sharded": session.trainable.sharded,
        "accumulate": session.config.train.accumulate,
        "parts": session.step_context.micro_batches,
        "compiled": session.step_context.compiled is not None,
        "kernels": session.compute.kernels,
        "dtype": name(session.compute.dtype),
        "noise": "device" if session.step_context.noise_on_device else "cpu",
    }
