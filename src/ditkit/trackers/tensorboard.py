"""TensorBoard, in RUN/tensorboard: `tensorboard --logdir runs` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..io.reading import open_picture
from .contract import Tracker


def tracker(folder: Path, step: int, config: Mapping[str, Any]) -> Tracker:
    """Event files beside the run; what a killed run wrote beyond `step` is taken back. Raises UsageError."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise UsageError(f"TensorBoard is not installed ({error})", 'pip install "ditkit[tensorboard]"') from None
    return _TensorBoard(SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1))


class _TensorBoard:
    def __init__(self, writer: Any):
        self._writer = writer

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, path: Path) -> None:
        self._writer.add_image("samples", np.asarray(open_picture(path)), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()
