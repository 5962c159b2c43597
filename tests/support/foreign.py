"""Networks of other projects, written anew from what is known of them, with random weights under their names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _random(network: nn.Module, seed: int) -> None:
    """Random weights all over: what such networks begin with is 0 where it matters."""
    source = torch.Generator().manual_seed(seed)
    for one in network.parameters():
        if one.requires_grad:
            scale = 0.5 if one.ndim == 1 else 0.7 / math.sqrt(one[0].numel())
            one.data = torch.randn(one.shape, generator=source) * scale


def _features(time_B: Tensor, count: int) -> Tensor:
    """Cosines, then sines, of frequencies from 1 down to almost 1/10000."""
    half = count // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half) / half)
    angle = time_B.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _split(qkv: list[Tensor], heads: int) -> list[Tensor]:
    return [one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in qkv]


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def _image(patches: Tensor, grid: tuple[int, int], patch: int, channels: int) -> Tensor:
    """Patches (B, T, P * P * C), pixels before channels, as images."""
    x = patches.unflatten(1, grid).unflatten(-1, (patch, patch, channels))  # B h w p q c
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class _Named(nn.Module):
    """Modules under dotted names that the attribute syntax cannot give them."""

    def __init__(self, **parts: nn.Module):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name.removeprefix("_"), part)


class Original(nn.Module):
    """ckpt.pt: separate q, k, v; SELU; scale, shift, gate; one running position, sines and cosines by turns."""

    def __init__(self, *, size=(8, 8), channels=3, patch=2, width=32, depth=2, heads=4, rows=3, seed=0):
        super().__init__()
        self.patch, self.heads, self.channels, self.size = patch, heads, channels, size
        self.grid = (size[0] // patch, size[1] // patch)
        linear = nn.Linear
        self.patch_ops = _Named(patch_proj=nn.Conv2d(channels, width, patch, patch))
        tokens = self.grid[0] * self.grid[1]
        angle = torch.arange(tokens)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
        self.register_buffer("positional_embeddings", torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[None])
        self.time_embed = _Named(mlp=nn.Sequential(linear(width // 2, width), nn.SELU(), linear(width, width)))
        self.label_embed = _Named(label_embed=nn.Embedding(rows, width))
        self.blocks = nn.ModuleList(
            _Named(
                scale_shift_scale=nn.Sequential(nn.SiLU(), linear(width, 6 * width)),
                att=_Named(**{name: linear(width, width) for name in ("wq", "wk", "wv", "w")}),
                pointwise_ffn=_Named(
                    layers=nn.Sequential(
                        linear(width, 4 * width), nn.GELU(), nn.Dropout(0), linear(4 * width, width), nn.Dropout(0)
                    )
                ),
            )
            for _ in range(depth)
        )
        self.norm_linear = _Named(
            shift_scale=nn.Sequential(nn.SELU(), linear(width, 2 * width)), linear=linear(width, patch**2 * channels)
        )
        _random(self, seed)

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        parts: Any = self
        x = parts.patch_ops.patch_proj(x).flatten(2).transpose(1, 2) + self.positional_embeddings
        condition = parts.time_embed.mlp(_features(time, parts.time_embed.mlp[0].in_features))
        if label is not None:
            condition = condition + parts.label_embed.label_embed(label)
        for block in parts.blocks:
            gamma1, beta1, alpha1, gamma2, beta2, alpha2 = block.scale_shift_scale(condition)[:, None].chunk(6, dim=-1)
            seen = _normed(x) * (1 + gamma1) + beta1
            x = x + alpha1 * block.att.w(
                _attend(*_split([getattr(block.att, n)(seen) for n in ("wq", "wk", "wv")], self.heads))
            )
            x = x + alpha2 * block.pointwise_ffn.layers(_normed(x) * (1 + gamma2) + beta2)
        gamma, beta = parts.norm_linear.shift_scale(condition)[:, None].chunk(2, dim=-1)
        x = parts.norm_linear.linear(_normed(x) * (1 + gamma) + beta)
        return _image(x, self.grid, self.patch, self.channels)

    def save(self, path: Path, *, step: int = 700, losses: int = 500, prefix: str = "_orig_mod.", drop: float = 0.1):
        """As that project's training writes it; the raw weights are twice the averaged ones."""
        rows = len(self.label_embed.label_embed.weight)  # pyright: ignore
        height, width = self.size
        arguments = {
            "var_range": (1e-4, 2e-2),
            "num_timesteps": 1000,
            "patch_size": self.patch,
            "H": height,
            "W": width,
            "in_channels": self.channels,
            "num_heads": self.heads,
            "num_classes": rows - (drop > 0),
            "cfg_dropout_rate": drop,
        }
        state = {f"{prefix}{name}": value for name, value in self.state_dict().items()}
        raw = {name: value if "positional" in name else 2 * value for name, value in state.items()}
        optimizer = torch.optim.AdamW(self.parameters()).state_dict()
        torch.save(
            {
                "model_state": raw,
                "ema_state": state,
                "optimizer_state": optimizer,
                "model_args": arguments,
                "step": step,
                "train_config": arguments,
                "losses": [1 / (1 + number) for number in range(losses)],
            },
            path,
        )


class Meta(nn.Module):
    """DiT's names: fused qkv; shift, scale, gate; positions by column, then row; SiT's network is the same."""

    def __init__(self, *, side=8, channels=4, patch=2, width=64, depth=2, heads=4, classes=1000, twice=True, seed=0):
        super().__init__()
        self.patch, self.heads, self.side = patch, heads, side
        self.out = channels * (2 if twice else 1)
        linear = nn.Linear
        self.x_embedder = _Named(proj=nn.Conv2d(channels, width, patch, patch))
        count = side // patch
        row, column = torch.meshgrid(torch.arange(count).double(), torch.arange(count).double(), indexing="ij")
        frequency = 10000 ** (-torch.arange(width // 4).double() / (width // 4))
        angles = [one.reshape(-1, 1) * frequency for one in (column, row)]
        table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
        self.pos_embed = nn.Parameter(table.float()[None], requires_grad=False)
        self.t_embedder = _Named(mlp=nn.Sequential(linear(256, width), nn.SiLU(), linear(width, width)))
        self.y_embedder = _Named(embedding_table=nn.Embedding(classes + 1, width))
        self.blocks = nn.ModuleList(
            _Named(
                attn=_Named(qkv=linear(width, 3 * width), proj=linear(width, width)),
                mlp=_Named(fc1=linear(width, 4 * width), fc2=linear(4 * width, width)),
                adaLN_modulation=nn.Sequential(nn.SiLU(), linear(width, 6 * width)),
            )
            for _ in range(depth)
        )
        self.final_layer = _Named(
            linear=linear(width, patch**2 * self.out),
            adaLN_modulation=nn.Sequential(nn.SiLU(), linear(width, 2 * width)),
        )
        _random(self, seed)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """All output channels: of DiT noise, then variance; of SiT velocity, then nothing of use."""
        parts: Any = self
        x = parts.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        condition = parts.t_embedder.mlp(_features(time, 256)) + parts.y_embedder.embedding_table(label)
        for block in parts.blocks:
            shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
            qkv = block.attn.qkv(_normed(x) * (1 + scale1) + shift1).chunk(3, dim=-1)
            x = x + gate1 * block.attn.proj(_attend(*_split(list(qkv), self.heads)))
            hidden = F.gelu(block.mlp.fc1(_normed(x) * (1 + scale2) + shift2), approximate="tanh")
            x = x + gate2 * block.mlp.fc2(hidden)
        shift, scale = parts.final_layer.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        x = parts.final_layer.linear(_normed(x) * (1 + scale) + shift)
        return _image(x, (self.side // self.patch,) * 2, self.patch, self.out)

    def save(self, path: Path) -> Path:
        """As it is published: a state dict of the averaged weights."""
        torch.save(self.state_dict(), path)
        return path
