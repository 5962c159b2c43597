"""ditkit: train, sample and judge Diffusion Transformers. Public names load on first use (PEP 562)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "train": "training.loop",
    "sample": "sampling.generate",
    "save_grid": "sampling.samples",
    "evaluate": "evaluation.evaluate",
    "open_judge": "evaluation.judge",
    "sweep": "evaluation.sweep",
    "compare": "evaluation.compare",
    "estimate": "estimation.report",
    "edit": "sampling.edit",
    "animate": "sampling.animate",
    "find_lr": "estimation.lr_finder",
    "with_data": "data.from_python",
    "import_model": "interop.import_model",
    "export": "interop.export",
    "push": "interop.push",
    "load": "checkpoint.loading",
    "DiT": "models.dit",
    "RunConfig": "config",
    "ModelConfig": "config",
    "load_recipe": "recipes",
    "TrainingProgress": "visual.training_progress",
    "progress_bars": "visual.progress",
    "DitkitError": "errors",
}
__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from .checkpoint.loading import load
    from .config import ModelConfig, RunConfig
    from .data.from_python import with_data
    from .errors import DitkitError
    from .estimation.lr_finder import find_lr
    from .estimation.report import estimate
    from .evaluation.compare import compare
    from .evaluation.evaluate import evaluate
    from .evaluation.judge import open_judge
    from .evaluation.sweep import sweep
    from .interop.export import export
    from .interop.import_model import import_model
    from .interop.push import push
    from .models.dit import DiT
    from .recipes import load as load_recipe
    from .sampling.animate import animate
    from .sampling.edit import edit
    from .sampling.generate import sample
    from .sampling.samples import save_grid
    from .training.loop import train
    from .visual.progress import progress_bars
    from .visual.training_progress import TrainingProgress


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ditkit' has no attribute {name!r}")
    module = import_module(f".{_HOMES[name]}", __name__)
    return getattr(module, "load" if name == "load_recipe" else name)


def __dir__() -> list[str]:
    return __all__
