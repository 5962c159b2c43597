"""Decoded images of a whole data set, kept in memory where they are needed, and made ready for the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

MOST_CACHE_BYTES = 256 << 20  # of the computer's own memory
_MIDDLE = np.float32(127.5)  # of the values of a pixel


@dataclass(frozen=True)
class Room:
    """Memory of the device that trains, which may keep so many bytes of a data set."""

    device: torch.device
    most_bytes: int


class Kept(Protocol):
    """Images of one size, uint8 (height, width, channels), by index."""

    def put(self, index: int, image: np.ndarray) -> None: ...

    def ready(self, indices: np.ndarray, mirrored: np.ndarray) -> Tensor:
        """Those of some indices, which are there, of which some are mirrored: float32 (B, C, H, W) in [-1, 1]."""
        ...


def keep(count: int, shape: tuple[int, ...], most_bytes: int, room: Room | None) -> Kept | None:
    """A place for `count` images where all of them fit: on the device, else in `most_bytes` of memory, else nowhere."""
    size = count * math.prod(shape)
    if room and size <= room.most_bytes:
        return _OnDevice(count, shape, room.device)
    return _InMemory(count, shape) if size <= most_bytes else None


class _InMemory:
    def __init__(self, count: int, shape: tuple[int, ...]):
        self._images = np.empty((count, *shape), dtype=np.uint8)

    def put(self, index: int, image: np.ndarray) -> None:
        self._images[index] = image

    def ready(self, indices: np.ndarray, mirrored: np.ndarray) -> Tensor:
        return made_ready(self._images[indices], mirrored)


class _OnDevice:
    """Only the indices travel to the device; what comes out equals `made_ready` to the last bit."""

    def __init__(self, count: int, shape: tuple[int, ...], device: torch.device):
        self._images = torch.empty((count, *shape), dtype=torch.uint8, device=device)
        # A tensor: by a number, CUDA multiplies with its inverse, which rounds otherwise.
        self._middle = torch.tensor(_MIDDLE, device=device)

    def put(self, index: int, image: np.ndarray) -> None:
        # A copy, because what a data set gives may be read-only, or a view that runs backwards.
        self._images[index] = torch.tensor(np.ascontiguousarray(image), device=self._images.device)

    def ready(self, indices: np.ndarray, mirrored: np.ndarray) -> Tensor:
        device = self._images.device
        images_BHWC = self._images[torch.from_numpy(indices).to(device)]
        mirrored_B111 = torch.from_numpy(mirrored).to(device)[:, None, None, None]
        images_BHWC = torch.where(mirrored_B111, images_BHWC.flip(2), images_BHWC)
        return images_BHWC.permute(0, 3, 1, 2).contiguous().float() / self._middle - 1


def made_ready(images_BHWC: np.ndarray, mirrored: np.ndarray) -> Tensor:
    """Images, uint8, which are written to, as float32 (B, C, H, W) in [-1, 1], of which some are mirrored."""
    images_BHWC[mirrored] = images_BHWC[mirrored, :, ::-1]
    # In numpy, because torch would start a second team of threads when called outside the main thread.
    x_BCHW = np.divide(images_BHWC.transpose(0, 3, 1, 2), _MIDDLE, dtype=np.float32, order="C")
    x_BCHW -= 1
    return torch.from_numpy(x_BCHW)
