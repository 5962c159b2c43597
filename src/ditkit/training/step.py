"""The gradient of one step: a function of the weights, the images and (seed, step), whoever computes which part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import RunConfig
from ..data.batches import Batch
from ..errors import MachineError, UsageError, is_out_of_memory
from ..models.dit import DiT
from ..objectives.contract import Network, Objective
from ..runtime.device import autocast
from ..runtime.distributed import ProcessGroup
from ..runtime.gradient_sync import GradientSync
from ..seeding import generator
from . import compile as training_compile

_EVERYTHING = slice(None)
_CACHED = 4 << 20  # bytes of one activation as wide as the network, of a part of a batch, on a CPU


@dataclass(kw_only=True)
class StepContext:
    """What computes gradients in this process."""

    config: RunConfig
    network: DiT
    objective: Objective
    null_label: int
    device: torch.device
    dtype: torch.dtype
    world: ProcessGroup
    micro_batches: int  # that this process splits its share of a batch into; doubled when memory runs out
    exchange: GradientSync | None = None  # of several processes that have all weights
    sharded: bool = False  # each has a part of them
    may_recompute: bool = True  # when not even one image at a time fits
    compiled: Network | None = None  # the network's forward, for parts of the usual size


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """What a step may do to be faster or smaller."""

    compile: str = "auto"  # or on, off
    grad_checkpointing: str = "auto"  # or on, off
    shard: bool = False  # divide weights, moments and EMA among several processes


def open_step_context(
    config: RunConfig,
    network: DiT,
    objective: Objective,
    device: torch.device,
    dtype: torch.dtype,
    world: ProcessGroup,
    speed: SpeedOptions,
    compiled_before: bool | None = None,
    *,
    sharded: bool = False,
) -> tuple[StepContext, str | None]:
    """What computes gradients, and a line about what it could not have; `compiled_before`: so far, in this run.

    Raises UsageError for a sharded network that is to be compiled, MachineError where nothing can be compiled.
    """
    if sharded and speed.compile == "on":
        raise UsageError("a sharded network cannot be compiled", "leave out --compile on, or --shard")
    word = "off" if sharded else speed.compile
    compile_it, text = training_compile.decide(word, compiled_before, config, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, where products are float32
    network.recompute = speed.grad_checkpointing == "on"
    images = -(-config.train.batch_size // world.size)  # in the largest share, so that all have as many parts
    worker = StepContext(
        config=config,
        network=network,
        objective=objective,
        null_label=network.classes,
        device=device,
        dtype=dtype,
        world=world,
        micro_batches=micro_batches_for(config, device, images),
        exchange=GradientSync(network.parameters()) if world.size > 1 and not sharded else None,
        sharded=sharded,
        may_recompute=speed.grad_checkpointing != "off",
        compiled=training_compile.compiled(network) if compile_it else None,
    )
    return worker, text


def micro_batches_for(config: RunConfig, device: torch.device, images: int) -> int:
    """How many parts a process splits its share of a batch, `images`, into when memory is no concern.

    As many as train.accumulate asks for; on a CPU more where a part would be far larger than the caches: the
    gradients are the same up to rounding, and what backward needs takes less memory. A function of the settings
    alone, so that a run is the same on any CPU.
    """
    if device.type != "cpu":
        return config.train.accumulate
    _, height, width = config.shape
    tokens = (height // config.model.patch) * (width // config.model.patch)
    most = max(1, _CACHED // (tokens * config.model.width * 4))
    return max(config.train.accumulate, -(-images // most))


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step saw; the gradients are in the parameters. All of it is the same in every process."""

    loss_B: Tensor  # of the whole batch, float32, on the CPU
    timestep_B: Tensor
    flags: list[bool]  # whether any process raised them


def compute_gradients(
    worker: StepContext,
    step: int,
    batch: Batch,
    stream: str,
    flags: Callable[[], list[bool]],
    on_less: Callable[[], None],
) -> StepResult:
    """Gradients of the mean loss over the whole batch, of which `batch` is this process's share.

    `flags` is asked last, and `on_less` called when memory ran out and the batch is split further. Raises
    MachineError when not even one image at a time fits.
    """
    config, device, total = worker.config, worker.device, worker.config.train.batch_size
    share = worker.world.shard(total)
    x_BCHW = batch.x_BCHW.to(device, non_blocking=True)
    label_B = drop_labels(
        batch.label_B, worker.null_label, config.diffusion.label_drop, config.seed, step, share, total
    )
    timestep_B, noise_BCHW = draw_noise_and_timesteps(worker.objective, x_BCHW, config.seed, stream, step, total)
    tensors = (x_BCHW, label_B.to(device, non_blocking=True), timestep_B[share].to(device), noise_BCHW[share])
    while True:
        try:
            own_B = _gradients_of_share(worker, tensors, total)
            break
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        _make_room(worker, len(x_BCHW))
        on_less()
    loss_B = torch.zeros(total, device=device)
    loss_B[share] = own_B
    raised = torch.tensor(flags(), dtype=torch.float32, device=device)
    if worker.exchange:
        worker.exchange.wait()
    worker.world.all_reduce_([loss_B, raised])
    return StepResult(loss_B=loss_B.cpu(), timestep_B=timestep_B.cpu(), flags=[bool(flag) for flag in raised.tolist()])


def _gradients_of_share(worker: StepContext, tensors: tuple[Tensor, ...], total: int) -> Tensor:
    parts = min(
        worker.micro_batches, total // worker.world.size
    )  # as many in every process: shards are fetched for each
    losses: list[Tensor] = []
    usual_size = -(-len(tensors[0]) // parts)  # another one would be compiled anew
    for number, some in enumerate(zip(*(one.tensor_split(parts) for one in tensors), strict=True), 1):
        if worker.exchange:
            worker.exchange.start(last=number == parts)
        with autocast(worker.device, worker.dtype):
            usual = worker.compiled if len(some[0]) == usual_size else None
            loss_b = worker.objective.loss_at(usual or worker.network, *some)
        (loss_b.sum() / total).backward()
        losses.append(loss_b.detach().float())
    return torch.cat(losses)


def _make_room(worker: StepContext, images: int) -> None:
    worker.network.zero_grad(set_to_none=True)
    if worker.device.type == "cuda":
        torch.cuda.empty_cache()
    if worker.sharded:  # the others wait for this part, and would not know of more
        raise MachineError("out of memory", f"use --set train.accumulate={2 * worker.micro_batches}, or more devices")
    if worker.micro_batches < images:
        worker.micro_batches *= 2
    elif worker.may_recompute and not worker.network.recompute:
        worker.network.recompute = True
    else:
        raise MachineError(
            "out of memory with one image at a time",
            "choose a smaller model or image size (--set model.preset=…, --set data.image_size=…)",
        )


def draw_noise_and_timesteps(
    objective: Objective, x_BCHW: Tensor, seed: int, stream: str, step: int, total: int | None = None
) -> tuple[Tensor, Tensor]:
    """Timesteps (B,), on the CPU, and noise (B, C, H, W), on the images' device, for a batch of `total` images.

    The timesteps are the same on any device; the images may be a part of the batch.
    """
    source, device = generator(seed, stream, step), x_BCHW.device
    total = len(x_BCHW) if total is None else total
    timestep_B = objective.draw_timesteps(total, source)
    if device.type != "cpu":  # noise is drawn where it is needed: much faster than moving it
        source = generator(seed, stream, step, device)
    return timestep_B, torch.randn((total, *x_BCHW.shape[1:]), generator=source, device=device)


def drop_labels(
    label_B: Tensor,
    null_label: int,
    probability: float,
    seed: int,
    step: int,
    share: slice = _EVERYTHING,
    total: int | None = None,
) -> Tensor:
    """Replace labels by the null label with a probability (classifier-free guidance, Ho & Salimans 2022).

    The labels are the `share` of a batch of `total`.
    """
    total = len(label_B) if total is None else total
    dropped_B = torch.rand(total, generator=generator(seed, "label drop", step)) < probability
    return label_B.masked_fill(dropped_B[share], null_label)
