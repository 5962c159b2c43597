"""The four blocks of the paper (Peebles & Xie 2022, section 3.2 and figure 3), by how they take timestep and label.

Every block is `block(x_BTD, condition, rotary)`; what `condition` is depends on the kind:
in-context: nothing (the conditions are two more tokens) · cross-attention: (B, 2, D) · adaLN, adaLN-Zero: (B, D).
B batch, T tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from .layers import CrossAttention, FeedForward, FusedLinear, Norm, SelfAttention, in_full_precision


class InContextBlock(nn.Module):
    """A plain pre-norm transformer block."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_norm = Norm(config.norm, config.width, affine=True)
        self.attention = SelfAttention(config.width, config.heads, qk_norm=config.qk_norm)
        self.mlp_norm = Norm(config.norm, config.width, affine=True)
        self.mlp = FeedForward(config.mlp, config.width, config.mlp_ratio)

    def forward(self, x_BTD: Tensor, condition: Tensor | None, rotary: Tensor | None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotary)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class CrossAttentionBlock(nn.Module):
    """Self-attention, then attention to the timestep and label, then the feed-forward."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention_norm = Norm(config.norm, config.width, affine=True)
        self.attention = SelfAttention(config.width, config.heads, qk_norm=config.qk_norm)
        self.cross_norm = Norm(config.norm, config.width, affine=True)
        self.cross = CrossAttention(config.width, config.heads, qk_norm=config.qk_norm)
        self.mlp_norm = Norm(config.norm, config.width, affine=True)
        self.mlp = FeedForward(config.mlp, config.width, config.mlp_ratio)

    def forward(self, x_BTD: Tensor, condition_B2D: Tensor, rotary: Tensor | None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotary)
        x_BTD = x_BTD + self.cross(self.cross_norm(x_BTD), condition_B2D)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class AdaLNBlock(nn.Module):
    """Adaptive norm: shift and scale regressed from the condition; with `zero`, gates that start closed."""

    def __init__(self, config: ModelConfig, *, zero: bool):
        super().__init__()
        self.zero = zero
        self.attention_norm = Norm(config.norm, config.width, affine=False)
        self.attention = SelfAttention(config.width, config.heads, qk_norm=config.qk_norm)
        self.mlp_norm = Norm(config.norm, config.width, affine=False)
        self.mlp = FeedForward(config.mlp, config.width, config.mlp_ratio)
        self.modulation = FusedLinear(config.width, config.width, 6 if zero else 4)

    def forward(self, x_BTD: Tensor, condition_BD: Tensor, rotary: Tensor | None) -> Tensor:
        parts = regressed(self.modulation, condition_BD, 6 if self.zero else 4)
        attended = self.attention(modulate(self.attention_norm(x_BTD), parts[0], parts[1]), rotary)
        x_BTD = torch.addcmul(x_BTD, parts[4], attended) if self.zero else x_BTD + attended
        processed = self.mlp(modulate(self.mlp_norm(x_BTD), parts[2], parts[3]))
        return torch.addcmul(x_BTD, parts[5], processed) if self.zero else x_BTD + processed


def regressed(modulation: nn.Linear, condition: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Shifts, scales and gates, (B, 1, D) each, of a condition (B, D), or of a row of the modulation table (B, F)."""
    if condition.shape[-1] == modulation.out_features:
        return condition[:, None].chunk(parts, dim=-1)
    with in_full_precision(condition):
        return modulation(condition)[:, None].chunk(parts, dim=-1)


def modulate(x_BTD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    """x (1 + scale) + shift (Peebles & Xie 2022, section 3.2), in one pass over memory."""
    return torch.addcmul(shift_B1D, x_BTD, 1 + scale_B1D)


def block(config: ModelConfig) -> nn.Module:
    """One block of the kind that the config names."""
    if config.conditioning == "in-context":
        return InContextBlock(config)
    if config.conditioning == "cross-attention":
        return CrossAttentionBlock(config)
    return AdaLNBlock(config, zero=config.conditioning == "adaln-zero")
