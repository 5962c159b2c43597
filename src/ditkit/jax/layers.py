"""The parts of a DiT in JAX, small to large: what `models/layers.py` is in torch, by the same names.

A part is a function of its weights, a dict named as in the weights file, and of what it is applied to.
Shapes: B batch, T tokens, S conditions, D width, N heads, K head width, h w patches, F frequencies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Weights = Mapping[str, Any]  # of arrays, or of the weights of smaller parts


def sine_cosine(position_T: np.ndarray, width: int) -> np.ndarray:
    """Sine-cosine table (T, width) of positions (Vaswani et al. 2017, section 3.5): sines first, then cosines."""
    half = width // 2
    angle_TF = position_T[:, None] * 10000.0 ** (-np.arange(half) / half)
    return np.concatenate([np.sin(angle_TF), np.cos(angle_TF)], axis=1).astype(np.float32)


def position_table(kind: str, h: int, w: int, width: int) -> np.ndarray:
    """Fixed positions (T, D): half the width for the column, half for the row ("2d"), or one running index ("1d").

    "1d-interleaved": a running index, sines and cosines in turn, in single precision, as imported models have them.
    """
    index_T = np.arange(h * w)
    if kind == "1d":
        return sine_cosine(index_T, width)
    if kind == "1d-interleaved":
        exponent_F = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
        angle_TF = index_T.astype(np.float32)[:, None] / np.float32(10000) ** exponent_F
        return np.stack([np.sin(angle_TF), np.cos(angle_TF)], axis=2).reshape(h * w, width)
    row_T, column_T = np.divmod(index_T, w)
    return np.concatenate([sine_cosine(column_T, width // 2), sine_cosine(row_T, width // 2)], axis=1)


def rotary_table(h: int, w: int, head_width: int, extra: int) -> np.ndarray:
    """2-D rotary angles as (2, T + extra, K/2) cosines and sines; `extra` trailing tokens are not rotated."""
    frequency_F = 10000.0 ** (-np.arange(head_width // 4) / (head_width // 4))
    row_T, column_T = np.divmod(np.arange(h * w), w)
    angle_TF = np.concatenate([row_T[:, None] * frequency_F, column_T[:, None] * frequency_F], axis=1)
    angle_TF = np.pad(angle_TF, ((0, extra), (0, 0)))
    return np.stack([np.cos(angle_TF), np.sin(angle_TF)]).astype(np.float32)


def rotate(x_TK: Array, rotary_2TF: np.ndarray) -> Array:
    """Turn each pair (k, k + K/2) of a head by its token's angle; any dimensions may come before (T, K)."""
    cosine_TF, sine_TF = rotary_2TF
    first, second = jnp.split(x_TK, 2, axis=-1)
    return jnp.concatenate([first * cosine_TF - second * sine_TF, second * cosine_TF + first * sine_TF], axis=-1)


def linear(weights: Weights, x: Array) -> Array:
    """x W^T + b: torch keeps a matrix as (out, in)."""
    return x @ weights["weight"].T + weights["bias"]


def rms(x: Array) -> Array:
    """x over its root mean square, along the last axis (Zhang & Sennrich 2019)."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


def norm(weights: Weights, kind: str, x: Array) -> Array:
    """LayerNorm or RMSNorm over the last axis; with a learned scale (and bias) where there are weights for them."""
    x = rms(x if kind == "rms" else x - jnp.mean(x, axis=-1, keepdims=True))
    return x * weights.get("weight", 1) + weights.get("bias", 0)


def timestep_embedding(weights: Weights, timestep_B: Array, *, size: int, shift: int, activation: str) -> Array:
    """Timestep to width: sinusoidal frequencies, then a two-layer MLP."""
    half = size // 2
    frequency_F = np.exp(-np.log(10000.0) * np.arange(half) / (half - shift)).astype(np.float32)
    angle_BF = timestep_B[:, None] * frequency_F
    feature_BF = jnp.concatenate([jnp.cos(angle_BF), jnp.sin(angle_BF)], axis=1)
    hidden_BD = {"silu": jax.nn.silu, "selu": jax.nn.selu}[activation](linear(weights["first"], feature_BF))
    return linear(weights["second"], hidden_BD)


def attention(q_BTNK: Array, k_BSNK: Array, v_BSNK: Array) -> Array:
    """softmax(q k^T / sqrt(K)) v, with the heads joined: (B, T, D) (Vaswani et al. 2017, eq. 1)."""
    score_BNTS = jnp.einsum("btnk,bsnk->bnts", q_BTNK, k_BSNK) / q_BTNK.shape[-1] ** 0.5
    mixed_BTNK = jnp.einsum("bnts,bsnk->btnk", jax.nn.softmax(score_BNTS), v_BSNK)
    return mixed_BTNK.reshape(*q_BTNK.shape[:2], -1)


def self_attention(weights: Weights, x_BTD: Array, rotary_2TF: np.ndarray | None, heads: int) -> Array:
    """Multi-head self-attention with one fused projection for queries, keys and values."""
    B, T, D = x_BTD.shape
    qkv_3BNTK = linear(weights["qkv"], x_BTD).reshape(B, T, 3, heads, D // heads).transpose(2, 0, 3, 1, 4)
    qk_2BNTK, v_BNTK = qkv_3BNTK[:2], qkv_3BNTK[2]
    if "qk_scale" in weights:
        qk_2BNTK = rms(qk_2BNTK) * weights["qk_scale"]
    if rotary_2TF is not None:
        qk_2BNTK = rotate(qk_2BNTK, rotary_2TF)
    q_BTNK, k_BTNK, v_BTNK = (heads_BNTK.transpose(0, 2, 1, 3) for heads_BNTK in (*qk_2BNTK, v_BNTK))
    return linear(weights["out"], attention(q_BTNK, k_BTNK, v_BTNK))


def cross_attention(weights: Weights, x_BTD: Array, condition_BSD: Array, heads: int) -> Array:
    """Multi-head attention from image tokens to a short sequence of conditions."""
    B, T, D = x_BTD.shape
    q_BTNK = linear(weights["query"], x_BTD).reshape(B, T, heads, D // heads)
    kv_BS2NK = linear(weights["key_value"], condition_BSD).reshape(B, -1, 2, heads, D // heads)
    k_BSNK, v_BSNK = kv_BS2NK[:, :, 0], kv_BS2NK[:, :, 1]
    if "query_norm" in weights:
        q_BTNK, k_BSNK = norm(weights["query_norm"], "rms", q_BTNK), norm(weights["key_norm"], "rms", k_BSNK)
    return linear(weights["out"], attention(q_BTNK, k_BSNK, v_BSNK))


def feed_forward(weights: Weights, kind: str, x_BTD: Array) -> Array:
    """Two-layer MLP with GELU (exact or tanh), or SwiGLU (Shazeer 2020, eq. 6)."""
    hidden = linear(weights["first"], x_BTD)
    if kind == "swiglu":
        gate, value = jnp.split(hidden, 2, axis=-1)
        return linear(weights["second"], jax.nn.silu(gate) * value)
    return linear(weights["second"], jax.nn.gelu(hidden, approximate=kind == "gelu-tanh"))
