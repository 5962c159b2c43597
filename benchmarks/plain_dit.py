"""A DiT as it is commonly written out, to measure against: no fused projection, exact GELU, convolution as patchify."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainAttention(nn.Module):
    """Queries, keys and values from three matrices."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        query, key, value = (
            layer(x).view(batch, tokens, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class PlainBlock(nn.Module):
    """adaLN-Zero, term by term."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.first_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = PlainAttention(width, heads)
        self.second_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        parts = self.modulation(condition).chunk(6, dim=1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (part.unsqueeze(1) for part in parts)
        x = x + gate * self.attention(self.first_norm(x) * (1 + scale) + shift)
        return x + mlp_gate * self.mlp(self.second_norm(x) * (1 + mlp_scale) + mlp_shift)


class PlainDiT(nn.Module):
    """Patchify, blocks, final layer, unpatchify."""

    def __init__(self, size: int, channels: int, patch: int, width: int, depth: int, heads: int, classes: int):
        super().__init__()
        self.patch, self.channels, self.side, self.width = patch, channels, size // patch, width
        self.patch_in = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(1, self.side**2, width) * 0.02, requires_grad=False)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(depth))
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.final_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.final = nn.Linear(width, patch * patch * channels)

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        tokens = self.patch_in(x).flatten(2).transpose(1, 2) + self.positions
        frequency = torch.exp(-math.log(10000) * torch.arange(128) / 128)
        angle = timestep[:, None].float() * frequency[None]
        condition = self.time(torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)) + self.label(label)
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.final_modulation(condition).chunk(2, dim=1)
        tokens = self.final(self.final_norm(tokens) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1))
        patches = tokens.view(len(x), self.side, self.side, self.patch, self.patch, self.channels)
        return torch.einsum("nhwpqc->nchpwq", patches).reshape(x.shape)
