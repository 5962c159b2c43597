"""What a checkpoint knows beside tensors: step, versions, loss health."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from ..errors import CheckpointError
from .model_info import LatentStats

_DECAY = 0.98  # of the running mean of the loss
_WARM = 50  # steps learnt from before a loss can be called a spike


@dataclass(frozen=True, kw_only=True)
class LossHealth:
    """How a run has fared so far; part of every checkpoint, so that a continued run judges as if never stopped."""

    rollbacks: int = 0  # times the run went back; each changes the noise and halves the learning rate
    skips: int = 0  # steps skipped in a row
    skipped: int = 0  # steps skipped in all
    learnt: int = 0  # steps learnt from
    loss: float = 0.0  # running mean of the losses learnt from

    @property
    def rate_factor(self) -> float:
        """What the learning rate is multiplied by."""
        return 0.5**self.rollbacks

    def stream(self, name: str) -> str:
        """The name of a random stream: after each time the run went back another one, so that it draws other noise."""
        return f"{name}/{self.rollbacks}" if self.rollbacks else name

    def largest_loss(self, spike: float) -> float:
        """The largest loss of a step that is learnt from: `spike` times the running mean."""
        return spike * self.loss if self.learnt >= _WARM else math.inf

    def diagnose(self, loss: float, norm: float, spike: float) -> str | None:
        """Why a step must not be learnt from, or None. A spike is a loss over `spike` times the running mean."""
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(norm):
            return "the gradient is not finite"
        if loss > self.largest_loss(spike):
            return f"the loss is {loss / self.loss:.0f} times its mean"
        return None

    def accepted(self, loss: float) -> LossHealth:
        """After a step that was learnt from."""
        mean = loss if self.learnt == 0 else _DECAY * self.loss + (1 - _DECAY) * loss
        return replace(self, skips=0, learnt=self.learnt + 1, loss=mean)

    def skipped_step(self) -> LossHealth:
        """After a step that was not learnt from."""
        return replace(self, skips=self.skips + 1, skipped=self.skipped + 1)

    def with_other_losses(self) -> LossHealth:
        """After a change of what a loss is: the losses so far do not say which one would be a spike."""
        return replace(self, learnt=0)

    def after_rollback(self, saved: LossHealth) -> LossHealth:
        """After going back to a checkpoint that was saved with `saved`."""
        return replace(saved, rollbacks=self.rollbacks + 1, skips=0, skipped=self.skipped)


Length = Annotated[int, Field(ge=0, lt=2**63)]  # of a file, in bytes


@dataclass(frozen=True, kw_only=True)
class State:
    """What a checkpoint knows besides weights and optimiser."""

    step: int
    metrics_bytes: Length
    timing_bytes: Length
    incidents_bytes: Length = 0
    fingerprint: str
    labels: tuple[str, ...]
    versions: dict[str, str]  # of torch, numpy and Pillow; the model of GPU, and the library of kernels
    device: str = "cpu"
    threads: int = 0
    processes: int = 1
    sharded: bool = False  # over the processes
    accumulate: int = 1  # parts that the settings split a process's share of a batch into
    compiled: bool = False  # whether the network was
    kernels: bool = False  # whether kernels in C ran its blocks
    dtype: Literal["float32", "bfloat16"] | None = None  # of its products; None in checkpoints of an earlier ditkit
    noise: Literal["cpu", "device"] | None = None  # where it is drawn; None in checkpoints of an earlier ditkit
    parts: int = 1  # parts that it did split it into, because memory ran out
    validation_loss: FiniteFloat | None = None  # measured at this very step
    images: int = 0  # of the data set; 0 in checkpoints of an earlier ditkit
    latents: LatentStats | None = None
    replaced: tuple[int, ...] = ()  # images that could not be read, so that others have taken their place
    recovery: LossHealth = field(default_factory=LossHealth)

    @property
    def noise_on_device(self) -> bool:
        """Whether noise is drawn where the run computes: a run keeps what an earlier ditkit began on a GPU."""
        return self.noise == "device" or (self.noise is None and self.device != "cpu")

    def ran_on(self, device_type: str) -> bool:
        """Whether it was a device of this type (cpu, cuda, mps) that the run computed on."""
        return self.device.partition(":")[0] == device_type

    def compiled_on(self, device_type: str) -> bool | None:
        """Whether the network was compiled; None where that was on another type of device, and says nothing here."""
        return self.compiled if self.ran_on(device_type) else None


_ADAPTER = TypeAdapter(State)


def dump_state(state: State) -> bytes:
    """The content of state.json."""
    return _ADAPTER.dump_json(state, indent=1)


def parse_state(path: Path, content: bytearray) -> State:
    """The state of a checkpoint folder, from its state.json. Raises CheckpointError naming the file."""
    try:
        return _ADAPTER.validate_json(content, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{path / 'state.json'} is damaged ({where}: {first['msg']})", "use the checkpoint before it"
        ) from None
