"""Tables of numbers by timestep, as tensors on the device that looks them up."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tables = Callable[..., tuple[np.ndarray, ...]]


def on_device(device: torch.device, tables: Tables, *arguments: Any) -> list[Tensor]:
    """What `tables` returns, as tensors on a device. Another one than the CPU gets them once: copies would wait for it.

    `tables` and its arguments are their key, so both must be hashable.
    """
    return (_copied if device.type == "cpu" else _kept)(device, tables, *arguments)


@torch.inference_mode(False)  # tables of an inference could not be used in training
def _copied(device: torch.device, tables: Tables, *arguments: Any) -> list[Tensor]:
    return [torch.from_numpy(table).to(device) for table in tables(*arguments)]


_kept = lru_cache(maxsize=32)(_copied)
