"""The same DiT in JAX: it reads and writes the same weights files, draws the same images, and learns MNIST.

Public names load on first use, and JAX with them; without it they raise UsageError.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "DiT": "dit",
    "initialize": "files",
    "load": "files",
    "save": "files",
    "draw": "sampling",
    "draw_path": "sampling",
    "sample": "sampling",
    "sample_batches": "sampling",
    "train": "training",
}
__all__ = ["DiT", "draw", "draw_path", "initialize", "load", "sample", "sample_batches", "save", "train"]

if TYPE_CHECKING:
    from .dit import DiT
    from .files import initialize, load, save
    from .sampling import draw, draw_path, sample, sample_batches
    from .training import train


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ditkit.jax' has no attribute {name!r}")
    from .limits import check_installed

    check_installed()
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
