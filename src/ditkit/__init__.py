"""ditkit: train, sample and judge Diffusion Transformers. Public names load on first use (PEP 562)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "train": "training",
    "sample": "sampling",
    "evaluate": "evaluation.evaluate",
    "open_judge": "evaluation.judge",
    "edit": "editing",
    "find_lr": "lr_finder",
    "load": "checkpoint",
    "DiT": "models.dit",
    "RunConfig": "config",
    "load_recipe": "recipes",
    "DitkitError": "errors",
}
__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from .checkpoint import load
    from .config import RunConfig
    from .editing import edit
    from .errors import DitkitError
    from .evaluation.evaluate import evaluate
    from .evaluation.judge import open_judge
    from .lr_finder import find_lr
    from .models.dit import DiT
    from .recipes import load as load_recipe
    from .sampling import sample
    from .training import train


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ditkit' has no attribute {name!r}")
    module = import_module(f".{_HOMES[name]}", __name__)
    return getattr(module, "load" if name == "load_recipe" else name)


def __dir__() -> list[str]:
    return __all__
