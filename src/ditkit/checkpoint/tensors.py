"""What learns, as tensors by file and name: network, averages and optimiser, and how they are filled from those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..ema import PowerEmas
from ..errors import CheckpointError
from ..models.dit import DiT
from ..runs.run_state import State
from ..runtime.distributed import ProcessGroup
from ..runtime.fsdp import broadcast_into, full_tensor

AVERAGES = "averages.safetensors"  # those that others are made of after training, if the run keeps any
OPTIMIZER = "optimizer.safetensors"
_SLOTS = ("exp_avg", "exp_avg_sq", "step")  # of AdamW, for each parameter


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """What learns, and all that a checkpoint restores."""

    network: DiT
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    averages: PowerEmas = field(default_factory=lambda: PowerEmas(nn.Identity(), ()))
    sharded: bool = False
    # Tensors of a checkpoint by file, read by the main process and not yet split over all; see `broadcast_tensors`.
    pending: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """File name to tensors by name; the optimiser's are called parameter|slot, the averages' length|name."""
        slots = {
            f"{name}|{slot}": self.optimizer.state[parameter][slot]
            for name, parameter in self.network.named_parameters()
            for slot in (_SLOTS if self.optimizer.state.get(parameter) else ())
        }
        averages = dict(self.averages.tensors())
        return {
            **({AVERAGES: averages} if averages else {}),
            "ema.safetensors": self.ema.state_dict(),
            "model.safetensors": self.network.state_dict(),
            OPTIMIZER: slots,
        }


def checkpoint_bytes(trainable: Trainable) -> int:
    """About how large a checkpoint is, in bytes: weights, their averages, and two moments."""
    copies = 4 + len(trainable.averages.networks)
    values = trainable.network.parameters()
    return sum(copies * tensor.numel() * tensor.element_size() for tensor in values) + (64 << 10)


def load_file(trainable: Trainable, file: str, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Fill one file's part of what learns; of a sharded one the tensors stay pending until `broadcast_tensors`.

    Raises CheckpointError for other names or shapes, and for numbers that are not finite.
    """
    if file == OPTIMIZER:
        targets, shapes = {}, _slot_shapes(trainable) if tensors else {}  # before the first step it has none
    else:
        targets = trainable.tensors()[file]
        shapes = {name: tuple(target.shape) for name, target in targets.items()}
    check_tensors(shapes, tensors, source)
    if file == OPTIMIZER:
        trainable.optimizer.state.clear()
    if trainable.sharded:
        trainable.pending[file] = tensors
        return
    for name, target in targets.items():
        target.copy_(tensors[name])
    for name, parameter in trainable.network.named_parameters() if file == OPTIMIZER and tensors else ():
        # Taken, not copied: continuing must not need more memory than training did.
        slots = {slot: tensors[f"{name}|{slot}"].to(parameter.device) for slot in _SLOTS}
        trainable.optimizer.state[parameter] = slots


def _slot_shapes(trainable: Trainable) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}|{slot}": () if slot == "step" else tuple(parameter.shape)
        for name, parameter in trainable.network.named_parameters()
        for slot in _SLOTS
    }


def gather(trainable: Trainable) -> None:
    """Take part while the main process writes sharded tensors: it asks for each whole one, in this order."""
    for tensors in trainable.tensors().values():
        for value in tensors.values():
            full_tensor(value.detach())


def broadcast_state(group: ProcessGroup, trainable: Trainable, state: State | None) -> State | None:
    """The main process's state, weights and optimiser, in all processes, which must call this together."""
    state = group.broadcast(state)
    if group.size == 1 or state is None:
        return state
    has_slots = group.broadcast(bool(trainable.pending.get(OPTIMIZER) or trainable.optimizer.state))
    if not has_slots:
        trainable.optimizer.state.clear()
    elif not (group.is_main and trainable.optimizer.state):
        _init_optimizer_state(trainable)
    broadcast_tensors(trainable)
    return state


def broadcast_tensors(trainable: Trainable) -> None:
    """Fill all tensors with the main process's: those that are pending there, else its own."""
    for file, tensors in trainable.tensors().items():
        for name in sorted(tensors):  # in the same order in all processes
            broadcast_into(tensors[name], trainable.pending.get(file, {}).get(name))
    trainable.pending.clear()


def _init_optimizer_state(trainable: Trainable) -> None:
    """Give the optimiser state of the right shapes, to be filled."""
    for parameter in trainable.network.parameters():
        step = torch.zeros((), device=parameter.device)
        moments = {slot: torch.zeros_like(parameter) for slot in _SLOTS if slot != "step"}
        trainable.optimizer.state[parameter] = {**moments, "step": step}


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load tensors into a network of exactly these names and shapes. Raises CheckpointError otherwise."""
    check_shapes(network, tensors, source)
    network.load_state_dict(dict(tensors))


def check_shapes(network: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Raise CheckpointError unless these are a network's tensors, of finite numbers."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    check_tensors(shapes, tensors, source)


def check_tensors(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], source: Path) -> None:
    """Raise CheckpointError unless tensors have exactly these names and shapes, and finite numbers."""
    actual = {name: tuple(value.shape) for name, value in tensors.items()}
    if shapes != actual:
        wrong = sorted(set(shapes.items()) ^ set(actual.items()))[0][0]
        raise CheckpointError(f"{source} does not fit its own card (at {wrong})", "use another checkpoint")
    for name, value in tensors.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise CheckpointError(f"{source} holds numbers that are not finite (in {name})", "use another checkpoint")
