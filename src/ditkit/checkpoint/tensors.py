"""What learns: network, averages and optimiser, as tensors by file and name, and filled from those again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ..ema import PowerEmas
from ..errors import CheckpointError
from ..models.dit import DiT
from ..runtime.fsdp import full_tensor

AVERAGES = "averages.safetensors"  # those that others are made of after training, if the run keeps any
_SLOTS = ("exp_avg", "exp_avg_sq", "step")  # of AdamW, for each parameter


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """What learns, and all that a checkpoint restores."""

    network: DiT
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    averages: PowerEmas = field(default_factory=PowerEmas.none)
    sharded: bool = False
    pending: dict[str, Mapping[str, Tensor]] = field(
        default_factory=dict
    )  # of a checkpoint, to be split over processes

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """File name to tensors by name; the optimiser's are called parameter|slot."""
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
            "optimizer.safetensors": slots,
        }


def checkpoint_bytes(learner: Trainable) -> int:
    """About how large a checkpoint is, in bytes: weights, their averages, and two moments."""
    copies = 4 + len(learner.averages.networks)
    return sum(copies * one.numel() * one.element_size() for one in learner.network.parameters()) + (64 << 10)


def loaders(learner: Trainable) -> dict[str, Callable[[Mapping[str, Tensor], Path], None]]:
    """What is done with the tensors of each file."""

    def fill_or_hold(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
        if learner.sharded:
            check_shapes(network, tensors, path)
            learner.pending[path.name] = tensors
        else:
            load_into(network, tensors, path)

    return {
        "model.safetensors": lambda tensors, path: fill_or_hold(learner.network, tensors, path),
        "ema.safetensors": lambda tensors, path: fill_or_hold(learner.ema, tensors, path),
        "optimizer.safetensors": lambda tensors, path: _fill_optimizer(learner, tensors, path),
        **(
            {AVERAGES: lambda tensors, path: _fill_averages(learner, tensors, path)}
            if learner.averages.networks
            else {}
        ),
    }


def _fill_optimizer(learner: Trainable, tensors: Mapping[str, Tensor], source: Path) -> None:
    parameters = dict(learner.network.named_parameters())
    shapes = {
        f"{name}|{slot}": () if slot == "step" else tuple(parameter.shape)
        for name, parameter in parameters.items()
        for slot in _SLOTS
    }
    check_tensors(shapes if tensors else {}, tensors, source)
    learner.optimizer.state.clear()
    if learner.sharded:
        learner.pending[source.name] = tensors
        return
    for name, parameter in parameters.items() if tensors else ():
        slots = {slot: tensors[f"{name}|{slot}"].to(parameter.device) for slot in _SLOTS}
        learner.optimizer.state[parameter] = slots


def _fill_averages(learner: Trainable, tensors: Mapping[str, Tensor], source: Path) -> None:
    own = dict(learner.averages.tensors())
    check_tensors({name: tuple(value.shape) for name, value in own.items()}, tensors, source)
    if learner.sharded:
        learner.pending[source.name] = tensors
        return
    for name, value in own.items():
        value.copy_(tensors[name])


def gather(learner: Trainable) -> None:
    """Take part while the first process writes a sharded learner."""
    for tensors in learner.tensors().values():
        for value in tensors.values():
            full_tensor(value.detach())


def init_optimizer_state(learner: Trainable) -> None:
    """Give the optimiser state of the right shapes, to be filled."""
    for parameter in learner.network.parameters():
        step = torch.zeros((), device=parameter.device)
        moments = {slot: torch.zeros_like(parameter) for slot in _SLOTS if slot != "step"}
        learner.optimizer.state[parameter] = {**moments, "step": step}


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load tensors into a network of exactly these names and shapes. Raises CheckpointError otherwise."""
    check_shapes(network, tensors, source)
    network.load_state_dict(dict(tensors))


def check_shapes(network: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Raise CheckpointError unless these are a network's tensors, of finite numbers."""
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    check_tensors(wanted, tensors, source)


def check_tensors(wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], source: Path) -> None:
    """Raise CheckpointError unless tensors have exactly these names and shapes, and finite numbers."""
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != given:
        wrong = sorted(set(wanted.items()) ^ set(given.items()))[0][0]
        raise CheckpointError(f"{source} does not fit its own card (at {wrong})", "use another checkpoint")
    for name, value in tensors.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise CheckpointError(f"{source} holds numbers that are not finite (in {name})", "use another checkpoint")
