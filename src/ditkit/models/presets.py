"""Models by name: data only. `--set model.preset=dit-s/4` writes a row into the model's settings."""

from __future__ import annotations

from typing import Any

from ..errors import unknown

SIZES: dict[str, tuple[int, int, int]] = {
    # name       width depth heads
    "dit-pico": (128, 4, 4),
    "dit-nano": (192, 6, 6),
    "dit-tiny": (256, 8, 8),
    "dit-s": (384, 12, 6),
    "dit-b": (768, 12, 12),
    "dit-l": (1024, 24, 16),
    "dit-xl": (1152, 28, 16),
}
PATCHES = (2, 4, 7, 8)
DIFFUSERS = "diffusers"
# The one architecture of diffusers' DiTTransformer2DModel, of any size: `ditkit export --format diffusers` needs it.
OF_DIFFUSERS: dict[str, Any] = {
    "conditioning": "adaln-zero",
    "norm": "layer",
    "mlp": "gelu-tanh",
    "mlp_ratio": 4.0,
    "positions": "2d",
    "rope": False,
    "qk_norm": False,
    "time_activation": "silu",
    "final_activation": "silu",
    "frequency_size": 256,
    "frequency_shift": 1,
}


def names() -> tuple[str, ...]:
    return tuple(f"{size}/{patch}" for size in SIZES for patch in PATCHES)


def settings(name: str) -> dict[str, Any]:
    """The model settings that a preset stands for. Raises UsageError for an unknown name."""
    if name == DIFFUSERS:
        return dict(OF_DIFFUSERS)
    size, _, patch = name.lower().partition("/")
    if size not in SIZES or not patch.isdigit() or not 1 <= int(patch) <= 64:
        raise unknown("model preset", name, (*names(), DIFFUSERS))
    width, depth, heads = SIZES[size]
    return {"width": width, "depth": depth, "heads": heads, "patch": int(patch)}
