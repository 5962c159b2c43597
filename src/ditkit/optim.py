"""AdamW, the learning rate as a function of the step, and gradient clipping."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .config import OptimConfig
from .runtime.fsdp import full_tensor


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate of step number `step` (from 0) of `steps`: linear warm-up to the peak, then constant or down to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (step - config.warmup_steps) / max(1, steps - config.warmup_steps))
    if config.schedule == "linear":
        return config.lr * (1 - progress)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def adamw(network: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), fused; weight decay on matrices only, not on biases, norms and embeddings."""
    matrices = {id(module.weight) for module in network.modules() if isinstance(module, nn.Linear)}
    decayed = [parameter for parameter in network.parameters() if id(parameter) in matrices]
    others = [parameter for parameter in network.parameters() if id(parameter) not in matrices]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def norm(network: nn.Module) -> Tensor:
    """The norm () of all gradients together; where they are sharded, all processes must call it together."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return full_tensor(nn.utils.get_total_norm(gradients))


def clip(network: nn.Module, largest: float | None, norm: Tensor) -> None:
    """Scale gradients of a known norm down to the norm `largest`, if they exceed it."""
    if largest is not None:
        nn.utils.clip_grads_with_norm_(network.parameters(), largest, norm)
