"""The gradients of one step: a function of the weights, the images and (seed, step), whichever process computes what.

B batch, or a process's share of it; b part of a share; C channels, H W image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..config import RunConfig
from ..data.batches import Batch
from ..errors import MachineError, UsageError
from ..kernels.choice import Compute
from ..models.dit import DiT
from ..objectives.contract import Network, Objective
from ..runtime import compile as compiling
from ..runtime.device import autocast, give_back
from ..runtime.distributed import ProcessGroup
from ..runtime.failures import is_out_of_memory
from ..runtime.gradient_sync import GradientSync
from ..runtime.noise import NoiseSource
from ..runtime.transfer import send
from ..seeding import generator

_CACHED = 4 << 20  # bytes of one activation as wide as the network, of a part of a batch, on a CPU


@dataclass(kw_only=True)
class StepContext:
    """What computes gradients in this process."""

    config: RunConfig
    network: DiT
    objective: Objective
    device: torch.device
    compute: Compute
    group: ProcessGroup
    micro_batches: int  # that this process splits its share of a batch into; doubled when memory runs out
    gradient_sync: GradientSync | None = None  # of several processes that have all weights
    sharded: bool = False  # each has a part of them
    may_recompute: bool = True  # when not even one image at a time fits
    compiled: Network | None = None  # the network's forward, for parts of the usual size
    proven: bool = False  # gradients have been computed once: what fails from then on is not the compiler
    noise_on_device: bool = False  # drawn there, as an earlier ditkit did on GPUs

    @cached_property
    def noise(self) -> NoiseSource:
        share = self.group.shard(self.config.train.batch_size)
        return NoiseSource(self.config, self.objective, share, self.device, on_device=self.noise_on_device)


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """What a step may do to be faster or smaller."""

    compile: str = "auto"  # or on, off
    grad_checkpointing: str = "auto"  # or on, off
    shard: bool = False  # divide weights, moments and EMA among several processes
    kernels: str = "auto"  # or on, off: of the blocks, on a CPU
    follow_load: bool = False  # on a CPU, let the load of the machine decide at checkpoints how many threads compute


def open_step_context(
    config: RunConfig,
    network: DiT,
    objective: Objective,
    device: torch.device,
    compute: Compute,
    group: ProcessGroup,
    speed: SpeedOptions,
    compiled_before: bool | None = None,
    until: float = math.inf,
) -> tuple[StepContext, str | None]:
    """What computes gradients, and a line about what was wanted and is not possible.

    `compiled_before` says how a run that continues was trained so far; `until` is the monotonic time at which it ends.
    Raises UsageError for a sharded network that is to be compiled, MachineError where nothing can be compiled.
    """
    sharded = speed.shard and group.size > 1
    if sharded and speed.compile == "on":
        raise UsageError("a sharded network cannot be compiled", "leave out --compile on, or --shard")
    word = "off" if sharded or compute.kernels else speed.compile
    compute.equip(network)
    compiled, text = compiling.open_compiled(word, compiled_before, config, network, device, group, until)
    network.recompute = speed.grad_checkpointing == "on"
    images = -(-config.train.batch_size // group.size)  # in the largest share, so that all have as many parts
    context = StepContext(
        config=config,
        network=network,
        objective=objective,
        device=device,
        compute=compute,
        group=group,
        micro_batches=micro_batches_for(config, device, images),
        gradient_sync=GradientSync(network.parameters()) if group.size > 1 and not sharded else None,
        sharded=sharded,
        may_recompute=speed.grad_checkpointing != "off",
        compiled=compiled,
    )
    return context, text


def micro_batches_for(config: RunConfig, device: torch.device, images: int) -> int:
    """How many parts a process splits its share of a batch, `images`, into while memory suffices.

    As many as train.accumulate says; on a CPU more where a part would be far larger than the caches: the gradients are
    the same up to rounding, and backward needs less memory. A function of the settings alone, so that a run is the
    same on any CPU.
    """
    if device.type != "cpu":
        return config.train.accumulate
    _, height, width = config.shape
    tokens = (height // config.model.patch) * (width // config.model.patch)
    most = max(1, _CACHED // (tokens * config.model.width * 4))
    return max(config.train.accumulate, -(-images // most))


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step computes, the same in every process, on the device: it may still be on its way.

    The gradients are in the parameters.
    """

    loss_B: Tensor  # of the whole batch, float32
    timestep_B: Tensor  # on the CPU
    raised_F: Tensor  # how many processes raised each of the flags, float32, beside the losses


def compute_gradients(
    context: StepContext,
    step: int,
    batch: Batch,
    stream: str,
    flags: Callable[[], list[bool]],
    on_less: Callable[[], None],
) -> StepResult:
    """Gradients of the mean loss over the whole batch, of which `batch` is this process's share.

    Args:
        step: steps done before; with `stream`, the name of a stream of noise, it decides every random number.
        flags: called after the gradients, so that a signal that arrives meanwhile counts in this step.
        on_less: called when memory ran out and the batch is split further.

    Raises MachineError when not even one image at a time fits.
    """
    config, device, total = context.config, context.device, context.config.train.batch_size
    share, drop = context.group.shard(total), config.diffusion.label_drop
    label_B = drop_labels(batch.label_B, context.network.classes, drop, config.seed, step, share, total)
    timestep_B, *noise = context.noise.at(stream, step)
    tensors = (send(batch.x_BCHW, device), send(label_B, device), *noise)
    while True:
        try:
            share_loss_B = _gradients_of_share(context, tensors, total)
            context.proven = True
            break
        except Exception as error:
            without = context.compiled is not None and not context.proven and compiling.failed(error)
            if not without and not is_out_of_memory(error):
                raise
        # Not inside `except`: the error's traceback keeps alive the very activations that must go.
        context.network.zero_grad(set_to_none=True)  # those of the parts before the one that failed
        if without:
            context.compiled = None
        else:
            _make_room(context, len(tensors[0]))
            on_less()
    loss_B = torch.zeros(total, device=device)
    loss_B[share] = share_loss_B
    raised_F = send(torch.tensor(flags(), dtype=torch.float32), device)
    if context.gradient_sync:
        context.gradient_sync.wait()
    # Losses and flags go to all processes in one exchange: skipping and stopping must be decided alike everywhere.
    context.group.all_reduce_([loss_B, raised_F])
    return StepResult(loss_B=loss_B, timestep_B=timestep_B, raised_F=raised_F)


def _gradients_of_share(context: StepContext, tensors: tuple[Tensor, ...], total: int) -> Tensor:
    """Losses (B,) of a share's images, labels, timesteps and noise; the gradients are added to the parameters'."""
    # As many parts in every process: of sharded weights all fetch a block at the same time.
    parts = min(context.micro_batches, total // context.group.size)
    losses: list[Tensor] = []
    usual_size = -(-len(tensors[0]) // parts)  # another size would be compiled again
    for number, part in enumerate(zip(*(tensor.tensor_split(parts) for tensor in tensors), strict=True), 1):
        if context.gradient_sync:
            context.gradient_sync.start(last=number == parts)
        with autocast(context.device, context.compute.autocast):
            compiled = context.compiled if len(part[0]) == usual_size else None
            loss_b = context.objective.loss_at(compiled or context.network, *part)
        (loss_b.sum() / total).backward()
        losses.append(loss_b.detach().float())
    return torch.cat(losses)


def _make_room(context: StepContext, images: int) -> None:
    """Split into twice as many parts, then compute activations twice. Raises MachineError when that is done already."""
    give_back(context.device)
    if context.sharded:  # the others wait for this part, and do not know of more
        raise MachineError("out of memory", f"use --set train.accumulate={2 * context.micro_batches}, or more devices")
    if context.micro_batches < images:
        context.micro_batches *= 2
    elif context.may_recompute and not context.network.recompute:
        context.network.recompute = True
    else:
        raise MachineError(
            "out of memory with one image at a time",
            "choose a smaller model or image size (--set model.preset=…, --set data.image_size=…)",
        )


def drop_labels(
    label_B: Tensor,
    null_label: int,
    probability: float,
    seed: int,
    step: int,
    share: slice = slice(None),
    total: int | None = None,
) -> Tensor:
    """Replace labels by the null label with a probability (classifier-free guidance, Ho & Salimans 2022, algorithm 1).

    The labels are the `share` of a batch of `total`.
    """
    total = len(label_B) if total is None else total
    dropped_B = torch.rand(total, generator=generator(seed, "label drop", step)) < probability
    return label_B.masked_fill(dropped_B[share], null_label)
