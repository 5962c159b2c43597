"""A network whose weights, gradients, moments and average are split over the processes (FSDP2, Zhao et al. 2023).

Each block is whole in a process only while it computes. Checkpoints hold whole tensors, whatever the number of
processes, so that they load on any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed
from torch import Tensor, nn

from ..errors import MachineError

Network = TypeVar("Network", bound=nn.Module)


def shard(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Leave this process its part of the weights; gradients become sums over all processes.

    In bfloat16 the weights of blocks are sent as such, but for those that compute in float32 (`blocks.regressed`);
    gradients are added up in float32. Raises MachineError for a torch that is too old.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise MachineError(f"--shard needs a later torch than {torch.__version__}", "pip install --upgrade torch")
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    sent_as = None if dtype == torch.float32 else dtype
    policy = MixedPrecisionPolicy(param_dtype=sent_as, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in network.get_submodule("blocks").children():
        if hasattr(block, "modulation"):
            fully_shard(block.get_submodule("modulation"), mesh=mesh)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh)
    for module in network.modules():
        # Sums, not means: each process has divided its losses by the size of the whole batch.
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded. All processes must call it together: each sends its part."""
    full = getattr(tensor, "full_tensor", None)
    return full() if full else tensor


def broadcast_into(target: Tensor, source: Tensor | None) -> None:
    """Fill a tensor, or this process's shard of it, with the first process's `source`; the others pass None."""
    mesh = getattr(target, "device_mesh", None)
    if mesh is None:
        if source is not None:
            target.copy_(source)
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(target, src=0)
        return
    from torch.distributed.tensor import distribute_tensor

    whole = torch.empty(target.shape) if source is None else source
    whole = whole.to(device=mesh.device_type, dtype=target.dtype)
    part = distribute_tensor(whole, mesh, target.placements)  # pyright: ignore[reportAttributeAccessIssue]
    target.to_local().copy_(part.to_local())  # pyright: ignore[reportAttributeAccessIssue]


@torch.no_grad()
def gather_module(network: nn.Module, build: Callable[[], Network], *, keep: bool) -> Network | None:
    """A whole copy of a sharded network, not to be trained; None without `keep`. All processes call it together."""
    tensors: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        full = full_tensor(value)
        if keep:
            tensors[name] = full
    if not keep:
        return None
    with torch.device("meta"):
        copy = build()
    copy.load_state_dict(tensors, assign=True)
    for name, buffer in network.named_buffers():  # tables that no checkpoint holds
        owner, _, last = name.rpartition(".")
        setattr(copy.get_submodule(owner), last, buffer)
    return copy.train(network.training).requires_grad_(False)
