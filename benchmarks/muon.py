"""Muon in float32: torch's own version works in bfloat16, which is many times slower on a CPU."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ditkit import optim
from ditkit.config import OptimConfig
from ditkit.models.dit import DiT

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the quintic: steep at 0, near 1 elsewhere


class Muon(torch.optim.Optimizer):
    """Nesterov momentum made orthogonal (Jordan et al. 2024), as large as AdamW's steps (Liu et al. 2025, eq. 4)."""

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for matrix in group["params"]:
                average = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(average, group["momentum"]))
                matrix.add_(update, alpha=-0.2 * math.sqrt(max(matrix.shape)) * group["lr"])


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """About U V^T of the singular value decomposition, by Newton-Schulz iterations."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def muon_and_adamw(network: DiT, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    matrices = [module.weight for module in network.blocks.modules() if isinstance(module, nn.Linear)]
    matrix_ids = {id(matrix) for matrix in matrices}
    adamw = optim.adamw(network, config)
    for group in adamw.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in matrix_ids]
    return [Muon(matrices, config.lr), adamw]
