"""Weights & Biases, project `ditkit`; WANDB_MODE=offline keeps it here, WANDB_PROJECT names another project."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..io.atomic import write_atomically
from .contract import Tracker

ID_FILE = "wandb-id.txt"  # in the run's folder: one run of the service for one run here, however often it is continued


def tracker(folder: Path, step: int, config: Mapping[str, Any]) -> Tracker:
    """One run of the service for one of ditkit's. Raises UsageError when the package is missing."""
    try:
        wandb: Any = import_module("wandb")  # not an import statement: to a type checker that would be this very file
    except ImportError as error:
        raise UsageError(f"Weights & Biases is not installed ({error})", 'pip install "ditkit[wandb]"') from None
    path = folder / ID_FILE
    if not path.is_file():
        write_atomically(path, secrets.token_hex(8))
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "ditkit"),
        name=folder.name,
        id=path.read_text(encoding="utf-8").strip(),
        resume="allow",
        dir=str(folder),
        config=dict(config),
    )
    return _WandB(wandb, run)


class _WandB:
    def __init__(self, library: Any, run: Any):
        self._library, self._run = library, run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def image(self, step: int, path: Path) -> None:
        self._run.log({"samples": self._library.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()
