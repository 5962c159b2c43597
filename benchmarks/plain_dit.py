"""A DiT as it is usually written, and the loop with which the original draws one image; for comparison.

Legend: B batch, T tokens, D width, N heads, K head width, C channels, P patch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainBlock(nn.Module):
    """adaLN-Zero, each operation written out."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.first_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.second_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x_BTD: Tensor, condition_BD: Tensor) -> Tensor:
        parts = self.modulation(condition_BD).chunk(6, dim=1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (part.unsqueeze(1) for part in parts)
        B, T, D = x_BTD.shape
        modulated_BTD = self.first_norm(x_BTD) * (1 + scale) + shift
        q, k, v = (layer(modulated_BTD) for layer in (self.query, self.key, self.value))
        q, k, v = (x.reshape(B, T, self.heads, D // self.heads).transpose(1, 2) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D)
        x_BTD = x_BTD + gate * self.out(attended)
        return x_BTD + mlp_gate * self.mlp(self.second_norm(x_BTD) * (1 + mlp_scale) + mlp_shift)


class PlainDiT(nn.Module):
    """Patches by a convolution, learned positions, blocks, a modulated final layer."""

    def __init__(self, *, channels: int, side: int, patch: int, width: int, depth: int, heads: int, classes: int):
        super().__init__()
        self.patch, self.channels, self.grid = patch, channels, side // patch
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(1, self.grid**2, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.last = nn.Linear(width, channels * patch**2)

    def forward(self, x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
        x_BTD = self.patches(x_BCHW).flatten(2).transpose(1, 2) + self.positions
        frequency_F = torch.exp(-math.log(10000) * torch.arange(128, device=x_BCHW.device) / 128)
        angle_BF = timestep_B[:, None].float() * frequency_F
        condition_BD = self.time(torch.cat([angle_BF.cos(), angle_BF.sin()], dim=1)) + self.label(label_B)
        for block in self.blocks:
            x_BTD = block(x_BTD, condition_BD)
        shift, scale = self.modulation(condition_BD).unsqueeze(1).chunk(2, dim=-1)
        x_BTD = self.last(self.norm(x_BTD) * (1 + scale) + shift)
        B, P, C, h = len(x_BTD), self.patch, self.channels, self.grid
        return x_BTD.view(B, h, h, P, P, C).permute(0, 5, 1, 3, 2, 4).reshape(B, C, h * P, h * P)


@torch.no_grad()
def ancestral(
    network: nn.Module, shape: tuple[int, int, int], label: int, *, calls: int, timesteps: int = 400
) -> Tensor:
    """The first `calls` of the 399 steps that take one image from noise to data (Ho et al. 2020, algorithm 2)."""
    beta_N = torch.linspace(1e-4, 0.02, timesteps)
    alpha_N = 1 - beta_N
    product_N = alpha_N.cumprod(dim=0)
    x_BCHW, label_B = torch.randn(1, *shape), torch.tensor([label])
    for step in range(timesteps - 1, timesteps - 1 - calls, -1):
        epsilon_BCHW = network(x_BCHW, torch.tensor([step]), label_B)
        x_BCHW = (x_BCHW - beta_N[step] / (1 - product_N[step]).sqrt() * epsilon_BCHW) / alpha_N[step].sqrt()
        if step > 1:
            variance = beta_N[step] * (1 - product_N[step - 1]) / (1 - product_N[step])
            x_BCHW = x_BCHW + variance.sqrt() * torch.randn_like(x_BCHW)
    return x_BCHW
