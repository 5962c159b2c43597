"""Decoded images of a whole data set, kept in memory where they are needed, and made ready for the network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

MOST_CACHE_BYTES = 256 << 20  # of the computer's own memory
_MIDDLE = np.float32(127.5)  # of the values of a pixel


@dataclass(frozen=True)
class Place:
    """Where batches are wanted, and what may be done there for them to be in time."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    most_bytes: int = 0  # of its memory, which a whole data set may take
    threads: int = 1  # that decode images

    @property
    def pins(self) -> bool:
        """Whether it copies from pinned memory while the CPU goes on."""
        return self.device.type == "cuda"


class Kept(Protocol):
    """Images of one size, uint8 (height, width, channels), by index."""

    def put(self, indices: np.ndarray, images_BHWC: np.ndarray) -> None: ...

    def ready(self, indices: np.ndarray, mirrored: np.ndarray) -> Tensor:
        """Those of some indices, which are there, of which some are mirrored: float32 (B, C, H, W) in [-1, 1]."""
        ...


def keep(count: int, shape: tuple[int, ...], cache_bytes: int, place: Place) -> Kept | None:
    """What keeps `count` images where all of them fit: on the device, else in `cache_bytes` of memory, else nothing."""
    size = count * math.prod(shape)
    if size <= place.most_bytes:
        return _OnDevice(count, shape, place.device)
    return _InMemory(count, shape) if size <= cache_bytes else None


class _InMemory:
    def __init__(self, count: int, shape: tuple[int, ...]):
        self._images = np.empty((count, *shape), dtype=np.uint8)

    def put(self, indices: np.ndarray, images_BHWC: np.ndarray) -> None:
        self._images[indices] = images_BHWC

    def ready(self, indices: np.ndarray, mirrored: np.ndarray) -> Tensor:
        return made_ready(self._images[indices], mirrored)


class _OnDevice:
    """Only the indices travel to the device; what comes out equals `made_ready` to the last bit."""

    def __init__(self, count: int, shape: tuple[int, ...], device: torch.device):
        self._images = torch.empty((count, *shape), dtype=torch.uint8, device=device)
        # A tensor: by a number, CUDA multiplies with its inverse, which rounds otherwise.
        self._middle = torch.tensor(_MIDDLE, device=device)

    def put(self, indices: np.ndarray, images_BHWC: np.ndarray) -> None:
        self._images[self._sent(indices)] = self._sent(images_BHWC)

    def ready(self, indices: np.ndarray, mirrored: np.ndarray) -> Tensor:
        images_BHWC = self._images[self._sent(indices)]
        mirrored_B111 = self._sent(mirrored)[:, None, None, None]
        images_BHWC = torch.where(mirrored_B111, images_BHWC.flip(2), images_BHWC)
        return images_BHWC.permute(0, 3, 1, 2).contiguous().float() / self._middle - 1

    def _sent(self, array: np.ndarray) -> Tensor:
        """On the device; a GPU goes on computing meanwhile, and nobody waits for it to be done."""
        tensor, device = torch.from_numpy(array), self._images.device
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def made_ready(images_BHWC: np.ndarray, mirrored: np.ndarray) -> Tensor:
    """Images, uint8, which are written to, as float32 (B, C, H, W) in [-1, 1], of which some are mirrored."""
    images_BHWC[mirrored] = images_BHWC[mirrored, :, ::-1]
    # In numpy, because torch would start a second team of threads when called outside the main thread.
    x_BCHW = np.divide(images_BHWC.transpose(0, 3, 1, 2), _MIDDLE, dtype=np.float32, order="C")
    x_BCHW -= 1
    return torch.from_numpy(x_BCHW)
