"""The parts of a DiT, small to large: positions, embeddings, norms, attention, feed-forward.

Shapes: B batch, T tokens, D width, N heads, K head width, C channels, H W image, h w patches, P patch, F frequencies.
"""

from __future__ import annotations

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .size import hidden_width

_MOST_KEYS = 512  # up to which the scores of all queries may be in memory


def in_full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Autocast off inside, where it is on: for conditions and modulations, which are small and must be exact."""
    device = x.device.type
    reduced = device != "meta" and torch.is_autocast_enabled(device)  # which raises for meta
    return torch.autocast(device, enabled=False) if reduced else contextlib.nullcontext()


def sine_cosine(position_T: Tensor, width: int) -> Tensor:
    """Sine-cosine table (T, width) of positions (Vaswani et al. 2017, section 3.5): sines first, then cosines."""
    half = width // 2
    frequency_F = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=position_T.device) / half)
    angle_TF = position_T.double()[:, None] * frequency_F
    return torch.cat([angle_TF.sin(), angle_TF.cos()], dim=1).float()


def grid_positions(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Row and column of each of h*w tokens, row by row."""
    index_T = torch.arange(h * w)
    return index_T // w, index_T % w


def position_table(kind: str, h: int, w: int, width: int) -> Tensor:
    """Fixed positions (T, D): half the width for the column, half for the row ("2d"), or one running index ("1d").

    "1d-interleaved": a running index, sines and cosines by turns, in single precision, as imported models have them.
    """
    if kind == "1d":
        return sine_cosine(torch.arange(h * w), width)
    if kind == "1d-interleaved":
        angle_TF = torch.arange(h * w)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
        return torch.stack([angle_TF.sin(), angle_TF.cos()], dim=2).flatten(1)
    row_T, column_T = grid_positions(h, w)
    return torch.cat([sine_cosine(column_T, width // 2), sine_cosine(row_T, width // 2)], dim=1)


def rotary_table(h: int, w: int, head_width: int, extra: int) -> Tensor:
    """2-D rotary angles as (2, T + extra, K/2) cosines and sines; `extra` trailing tokens are not rotated.

    The first half of the pairs turns with the row, the second with the column (Su et al. 2021, eq. 34, per axis).
    """
    frequency_F = 10000.0 ** (-torch.arange(head_width // 4, dtype=torch.float64) / (head_width // 4))
    row_T, column_T = grid_positions(h, w)
    angle_TF = torch.cat([row_T[:, None] * frequency_F, column_T[:, None] * frequency_F], dim=1)
    angle_TF = F.pad(angle_TF, (0, 0, 0, extra))
    return torch.stack([angle_TF.cos(), angle_TF.sin()]).float()


def rotate(x_TK: Tensor, rotary_2TF: Tensor) -> Tensor:
    """Turn each pair (k, k + K/2) of a head by its token's angle (Su et al. 2021, eq. 34); (…, T, K) as (T, K)."""
    cosine_TF, sine_TF = rotary_2TF.to(x_TK.dtype)
    first, second = x_TK.chunk(2, dim=-1)
    return torch.cat([first * cosine_TF - second * sine_TF, second * cosine_TF + first * sine_TF], dim=-1)


class Norm(nn.Module):
    """LayerNorm or RMSNorm (Zhang & Sennrich 2019) over the width; a learned scale (and bias) only if `affine`."""

    def __init__(self, kind: str, width: int, *, affine: bool, eps: float = 1e-6):
        super().__init__()
        self.kind, self.width, self.eps = kind, width, eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine and kind == "layer" else None

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.kind == "rms":
            weight = None if self.weight is None else self.weight.to(x_BTD.dtype)  # torch fuses equal dtypes only
            return F.rms_norm(x_BTD, (self.width,), weight, self.eps)
        return F.layer_norm(x_BTD, (self.width,), self.weight, self.bias, self.eps)


def timestep_frequencies(count: int, shift: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Frequencies (count,) of a timestep's features, from 1 down to 10000^-(1 - 1/count), with shift 1 to 10000^-1."""
    index_F = torch.arange(count, dtype=torch.float32, device=device)
    return torch.exp(-math.log(10000.0) * index_F / (count - shift))


class TimestepEmbedding(nn.Module):
    """Timestep (B,) to (B, D): cosines and sines of its frequencies, then a two-layer MLP."""

    def __init__(self, width: int, *, frequency_size: int, frequency_shift: int, activation: str):
        super().__init__()
        self.frequencies, self.shift = frequency_size // 2, frequency_shift
        self.activation = {"silu": F.silu, "selu": F.selu}[activation]
        self.first = nn.Linear(frequency_size, width)
        self.second = nn.Linear(width, width)

    def forward(self, timestep_B: Tensor) -> Tensor:
        angle_BF = timestep_B.float()[:, None] * timestep_frequencies(self.frequencies, self.shift, timestep_B.device)
        feature_BF = torch.cat([angle_BF.cos(), angle_BF.sin()], dim=1).to(self.first.weight.dtype)
        return self.second(self.activation(self.first(feature_BF)))


class FusedLinear(nn.Linear):
    """Several matrices of the same input in one product; each is initialised separately."""

    def __init__(self, width: int, out: int, matrices: int):
        self.matrices = matrices
        super().__init__(width, matrices * out)


def attend(q_BNTK: Tensor, k_BNSK: Tensor, v_BNSK: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(K)) v, (B, N, T, K) (Vaswani et al. 2017, eq. 1)."""
    if _is_bfloat16_on_cpu(q_BNTK) and k_BNSK.shape[2] <= _MOST_KEYS:
        score_BNTS = torch.matmul(q_BNTK * q_BNTK.shape[3] ** -0.5, k_BNSK.mT)
        return torch.matmul(score_BNTS.softmax(dim=-1, dtype=torch.float32).to(v_BNSK.dtype), v_BNSK)
    return F.scaled_dot_product_attention(q_BNTK, k_BNSK, v_BNSK)


def _is_bfloat16_on_cpu(x: Tensor) -> bool:
    """Where torch's fused attention is slow: it makes a small product of its own of each head."""
    if x.device.type != "cpu":
        return False
    return (torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype) == torch.bfloat16


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2), one product for queries, keys and values."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool):
        super().__init__()
        self.heads = heads
        self.qkv = FusedLinear(width, width, 3)
        self.out = nn.Linear(width, width)
        # One scale for queries, one for keys; both are normalised (Dehghani et al. 2023) and rotated in one pass.
        self.qk_scale = nn.Parameter(torch.ones(2, 1, 1, 1, width // heads)) if qk_norm else None

    def forward(self, x_BTD: Tensor, rotary_2TF: Tensor | None) -> Tensor:
        B, T, D = x_BTD.shape
        qkv_3BNTK = self.qkv(x_BTD).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        qk_2BNTK, v_BNTK = qkv_3BNTK[:2], qkv_3BNTK[2]
        if self.qk_scale is not None:
            qk_2BNTK = F.rms_norm(qk_2BNTK, (D // self.heads,), eps=1e-6) * self.qk_scale
        if rotary_2TF is not None:
            qk_2BNTK = rotate(qk_2BNTK, rotary_2TF)
        mixed_BNTK = attend(qk_2BNTK[0], qk_2BNTK[1], v_BNTK)
        return self.out(mixed_BNTK.transpose(1, 2).reshape(B, T, D))


class CrossAttention(nn.Module):
    """Multi-head attention from image tokens to a short sequence of conditions."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = FusedLinear(width, width, 2)
        self.out = nn.Linear(width, width)
        self.query_norm = Norm("rms", width // heads, affine=True) if qk_norm else nn.Identity()
        self.key_norm = Norm("rms", width // heads, affine=True) if qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, condition_BSD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        q_BNTK = self.query(x_BTD).view(B, T, self.heads, -1).transpose(1, 2)
        kv_BS2NK = self.key_value(condition_BSD).view(B, -1, 2, self.heads, D // self.heads)
        k_BNSK, v_BNSK = kv_BS2NK.permute(2, 0, 3, 1, 4)
        mixed_BNTK = attend(self.query_norm(q_BNTK), self.key_norm(k_BNSK), v_BNSK)
        return self.out(mixed_BNTK.transpose(1, 2).reshape(B, T, D))


class FeedForward(nn.Module):
    """Two-layer MLP with GELU (exact or tanh), or SwiGLU (Shazeer 2020, eq. 6)."""

    def __init__(self, kind: str, width: int, ratio: float):
        super().__init__()
        self.kind = kind
        hidden = hidden_width(kind, width, ratio)
        self.first = FusedLinear(width, hidden, 2 if kind == "swiglu" else 1)
        self.second = nn.Linear(hidden, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        hidden = self.first(x_BTD)
        if self.kind == "swiglu":
            gate, value = hidden.chunk(2, dim=-1)
            return self.second(F.silu(gate) * value)
        return self.second(F.gelu(hidden, approximate="tanh" if self.kind == "gelu-tanh" else "none"))
