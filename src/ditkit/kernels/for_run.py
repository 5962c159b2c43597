"""How a run computes: as it did before, and in all its processes alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch

from ..config import RunConfig
from ..errors import UsageError
from ..io.progress import notify
from ..runs.run_state import State
from ..runtime.device import find_dtype
from ..runtime.distributed import ProcessGroup
from .choice import Compute, choice_word, choose, find


class Speed(Protocol):
    """What the user said about how a run computes (`training.step.SpeedOptions`)."""

    @property
    def kernels(self) -> str: ...

    @property
    def compile(self) -> str: ...

    @property
    def grad_checkpointing(self) -> str: ...

    @property
    def shard(self) -> bool: ...


def choose_for_run(
    config: RunConfig, device: torch.device, dtype: str, speed: Speed, state: State | None, group: ProcessGroup
) -> Compute:
    """How a run that begins, or goes on from `state`, computes: the same in all processes.

    Raises UsageError for kernels "on" beside a way to compute that excludes them, or where they do not exist,
    MachineError where they cannot be used.
    """
    others = {
        "--shard": speed.shard and group.size > 1,
        "--compile on": speed.compile == "on",
        "--grad-checkpointing on": speed.grad_checkpointing == "on",
    }
    excluding = [option for option, given in others.items() if given]
    if excluding and speed.kernels == "on":
        raise UsageError(f"--kernels on does not go together with {excluding[0]}", "leave out one of them")
    word = "off" if excluding else speed.kernels
    mine = choose_again(config, device, dtype, word, state) if state else choose(config, device, dtype, word)
    # Eager where one of them cannot use the kernels, else the wider dtype.
    return min(group.all_gather(mine), key=lambda choice: (choice.kernels, choice.dtype.itemsize == 2))


def agreed_dtype(name: str, device: torch.device, group: ProcessGroup) -> torch.dtype:
    """`find_dtype` of all processes: the wider one, where one of them has a GPU that does not compute in bfloat16.

    Sharded weights are sent in it: processes of different dtypes would wait for each other's bytes for ever.
    """
    return max(group.all_gather(find_dtype(name, device)), key=lambda dtype: dtype.itemsize)


def choose_again(config: RunConfig, device: torch.device, dtype: str, kernels: str, state: State) -> Compute:
    """How a run goes on: as its checkpoint says, as far as this machine can. One that names no kernels had none."""
    word = choice_word(kernels)
    if word != "auto" or not state.kernels:
        compute = choose(config, device, dtype, "off" if word == "auto" else kernels)
        older = state.noise is None  # begun by an earlier ditkit whose attention on CPUs was torch's in bfloat16, too
        if older and device.type == "cpu" and compute.dtype == torch.bfloat16 and not compute.kernels:
            notify("warning: attention in bfloat16 rounds otherwise than when this run began: its last bits may differ")
        return compute
    before = (state.dtype or "float32") if dtype == "auto" else dtype
    found = find(config, device, before, whatever_they_gain=True)
    return found if found.kernels else replace(choose(config, device, dtype, "off"), why=found.why)
