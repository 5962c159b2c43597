"""Work on many images at once, and on fewer where memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from .device import give_back
from .failures import is_out_of_memory

T = TypeVar("T")


def halving(work: Callable[[int], T], at_once: int, device: torch.device) -> T:
    """What `work` returns for so many images at once; or for half as many, and half of these, while memory runs out.

    Raises what says that memory ran out where not even one image fits.
    """
    while True:
        try:
            return work(at_once)
        except (RuntimeError, MemoryError) as error:
            if at_once == 1 or not is_out_of_memory(error):
                raise
        # Not inside `except`: the error's traceback keeps alive what must go.
        give_back(device)
        at_once = max(1, at_once // 2)
