"""The Diffusion Transformer (Peebles & Xie 2022) in JAX: what `models/dit.py` and `models/blocks.py` are in torch.

A network is a pure function: its shape is a `DiT`, its weights are a pytree that is an argument like the images.
Shapes: B batch, T tokens, D width, C channels, H W image, h w patches, P patch, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..config import ModelConfig
from .layers import (
    Weights,
    cross_attention,
    feed_forward,
    linear,
    norm,
    position_table,
    rotary_table,
    self_attention,
    timestep_embedding,
)

_NO_WEIGHTS: Weights = {}  # of a norm without parameters


@dataclass(frozen=True, kw_only=True)
class DiT:
    """A DiT for images of one size, without its weights; hashable, a static argument for `jax.jit`.

    `size` is (height, width). `classes` labels have the ids 0 .. classes-1; the null label is `classes`.
    """

    config: ModelConfig
    channels: int
    size: tuple[int, int]
    classes: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size[0] // self.config.patch, self.size[1] // self.config.patch

    def __call__(self, weights: Weights, x_BCHW: Array, timestep_B: Array, label_B: Array) -> Array:
        """Prediction (B, C, H, W), or (B, 2C, H, W) with learned sigma, for noisy images at float timesteps (B)."""
        config, (h, w) = self.config, self.grid
        x_BTD = linear(weights["patch_in"], self.patchify(x_BCHW))
        x_BTD = x_BTD + position_table(config.positions, h, w, config.width)
        time_BD = timestep_embedding(
            weights["time"],
            timestep_B,
            size=config.frequency_size,
            shift=config.frequency_shift,
            activation=config.time_activation,
        )
        label_BD = weights["label"]["weight"][label_B]
        condition = last = None
        if config.conditioning == "in-context":
            x_BTD = jnp.concatenate([x_BTD, time_BD[:, None], label_BD[:, None]], axis=1)
        elif config.conditioning == "cross-attention":
            condition = jnp.stack([time_BD, label_BD], axis=1)
        else:
            condition = jax.nn.silu(time_BD + label_BD)
            last = jax.nn.selu(time_BD + label_BD) if config.final_activation == "selu" else condition
        rotary = rotary_table(h, w, config.width // config.heads, x_BTD.shape[1] - h * w) if config.rope else None
        for number in range(config.depth):
            x_BTD = block(weights["blocks"][str(number)], config, x_BTD, condition, rotary)
        return self.unpatchify(final(weights["final"], config, x_BTD[:, : h * w], last))

    def patchify(self, x_BCHW: Array) -> Array:
        """Image to tokens (B, T, C*P*P), row by row."""
        B, C = x_BCHW.shape[:2]
        (h, w), P = self.grid, self.config.patch
        return x_BCHW.reshape(B, C, h, P, w, P).transpose(0, 2, 4, 1, 3, 5).reshape(B, h * w, C * P * P)

    def unpatchify(self, x_BTF: Array) -> Array:
        """Tokens back to an image; the inverse of patchify."""
        B, (h, w), P = x_BTF.shape[0], self.grid, self.config.patch
        C = x_BTF.shape[2] // P**2
        return x_BTF.reshape(B, h, w, C, P, P).transpose(0, 3, 1, 4, 2, 5).reshape(B, C, h * P, w * P)


def block(
    weights: Weights, config: ModelConfig, x_BTD: Array, condition: Array | None, rotary: np.ndarray | None
) -> Array:
    """One block of the config's conditioning (section 3.2 and figure 3 of the paper).

    The condition: None (in-context) · (B, 2, D) (cross-attention) · (B, D) (adaLN, adaLN-Zero).
    """

    def normed(name: str, x_BTD: Array) -> Array:
        return norm(weights.get(f"{name}_norm", _NO_WEIGHTS), config.norm, x_BTD)

    def attend(x_BTD: Array) -> Array:
        return self_attention(weights["attention"], x_BTD, rotary, config.heads)

    def process(x_BTD: Array) -> Array:
        return feed_forward(weights["mlp"], config.mlp, x_BTD)

    if condition is None or config.conditioning == "cross-attention":
        x_BTD = x_BTD + attend(normed("attention", x_BTD))
        if condition is not None:
            x_BTD = x_BTD + cross_attention(weights["cross"], normed("cross", x_BTD), condition, config.heads)
        return x_BTD + process(normed("mlp", x_BTD))
    zero = config.conditioning == "adaln-zero"
    parts = modulation(weights["modulation"], condition, 6 if zero else 4)
    attention_gate, mlp_gate = parts[4:] if zero else (1, 1)
    x_BTD = x_BTD + attention_gate * attend(modulate(normed("attention", x_BTD), parts[0], parts[1]))
    return x_BTD + mlp_gate * process(modulate(normed("mlp", x_BTD), parts[2], parts[3]))


def final(weights: Weights, config: ModelConfig, x_BTD: Array, condition: Array | None) -> Array:
    """Norm and linear to patches of pixels; modulated by the condition (B, D) in the adaLN variants only."""
    x_BTD = norm(weights.get("norm", _NO_WEIGHTS), config.norm, x_BTD)
    if "modulation" in weights and condition is not None:
        x_BTD = modulate(x_BTD, *modulation(weights["modulation"], condition, 2))
    return linear(weights["linear"], x_BTD)


def modulation(weights: Weights, condition_BD: Array, parts: int) -> list[Array]:
    """Shifts, scales and gates (B, 1, D) that a linear layer computes from a condition (B, D)."""
    return jnp.split(linear(weights, condition_BD)[:, None], parts, axis=-1)


def modulate(x_BTD: Array, shift_B1D: Array, scale_B1D: Array) -> Array:
    """x (1 + scale) + shift."""
    return x_BTD * (1 + scale_B1D) + shift_B1D
