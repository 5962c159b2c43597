"""Model sizes by name: data only. `--set model.preset=dit-s/4` writes a row into the model's settings."""

from __future__ import annotations

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


def names() -> tuple[str, ...]:
    return tuple(f"{size}/{patch}" for size in SIZES for patch in PATCHES)


def settings(name: str) -> dict[str, int]:
    """The model settings that a preset stands for. Raises UsageError for an unknown name."""
    size, _, patch = name.lower().partition("/")
    if size not in SIZES or not patch.isdigit() or not 1 <= int(patch) <= 64:
        raise unknown("model preset", name, names())
    width, depth, heads = SIZES[size]
    return {"width": width, "depth": depth, "heads": heads, "patch": int(patch)}
