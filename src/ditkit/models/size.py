"""Parameters, FLOPs and bytes by arithmetic; no torch.

D width, P patch, T tokens.
"""

from __future__ import annotations

from ..config import ModelConfig, RunConfig

_FLOAT = 4  # bytes


def hidden_width(kind: str, width: int, ratio: float) -> int:
    """Hidden width of the feed-forward; SwiGLU's three matrices get two thirds, so that the cost stays the same."""
    return 8 * round(width * ratio * 2 / 3 / 8) if kind == "swiglu" else int(width * ratio)


def parameters(config: RunConfig, labels: int) -> int:
    """The exact number of a network's parameters, with `labels` classes and the null label."""
    model, D = config.model, config.model.width
    adaptive = model.conditioning.startswith("adaln")
    features = config.shape[0] * model.patch**2
    norm = 0 if adaptive else (2 * D if model.norm == "layer" else D)
    embeddings = _linear(features, D) + _linear(model.frequency_size, D) + _linear(D, D) + (labels + 1) * D
    modulation = _linear(D, 2 * D) if adaptive else 0
    final = norm + modulation + _linear(D, features * (2 if model.learned_sigma else 1))
    return embeddings + model.depth * _block(model, norm) + final


def _block(model: ModelConfig, norm: int) -> int:
    D, hidden = model.width, hidden_width(model.mlp, model.width, model.mlp_ratio)
    scales = 2 * (D // model.heads) if model.qk_norm else 0
    attention = _linear(D, 3 * D) + _linear(D, D) + scales
    feed_forward = _linear(D, hidden * (2 if model.mlp == "swiglu" else 1)) + _linear(hidden, D)
    plain = 2 * norm + attention + feed_forward
    if model.conditioning == "cross-attention":
        return plain + norm + _linear(D, D) + _linear(D, 2 * D) + _linear(D, D) + scales
    return plain + {"in-context": 0, "adaln": _linear(D, 4 * D), "adaln-zero": _linear(D, 6 * D)}[model.conditioning]


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def checkpoint_bytes(config: RunConfig, labels: int) -> int:
    """Weights, their moving average, the two moments of Adam, and the two averages of a run that keeps snapshots."""
    return (6 if config.train.snapshot_every else 4) * _FLOAT * parameters(config, labels)


def flops(config: ModelConfig, *, channels: int, size: tuple[int, int]) -> int:
    """Multiply-adds of one image's forward pass, which the paper's table 1 calls Gflops (times 1e9)."""
    D, P = config.width, config.patch
    tokens = (size[0] // P) * (size[1] // P)
    T = tokens + 2 if config.conditioning == "in-context" else tokens
    matrices = 3 if config.mlp == "swiglu" else 2
    each = T * (4 * D * D + matrices * D * hidden_width(config.mlp, D, config.mlp_ratio)) + 2 * T * T * D
    if config.conditioning == "cross-attention":
        each += T * 2 * D * D + 2 * 2 * D * D + 2 * T * 2 * D
    elif config.conditioning.startswith("adaln"):
        each += (6 if config.conditioning == "adaln-zero" else 4) * D * D
    final = 2 * D * D if config.conditioning.startswith("adaln") else 0
    pixels = channels * P * P * D * (1 + (2 if config.learned_sigma else 1))
    return config.depth * each + tokens * pixels + final + config.frequency_size * D + D * D
