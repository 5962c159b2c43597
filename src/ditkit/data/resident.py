"""Decoded images kept in memory or on the GPU, and how many threads decode."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..runtime.device import free_bytes
from ..runtime.transfer import send
from .pixels import MIDDLE, normalize

MOST_CACHE_BYTES = 256 << 20  # of the computer's own memory
_MOST_DECODING = 16  # threads


@dataclass(frozen=True)
class BatchTarget:
    """The device that batches are made for, and what may be used to have them in time."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    most_bytes: int = 0  # of the device's memory, which a whole data set may take
    threads: int = 1  # that decode images
    cache_bytes: int = MOST_CACHE_BYTES  # of the computer's memory, which decoded images may take

    @property
    def pins(self) -> bool:
        """Whether it copies from pinned memory while the CPU goes on."""
        return self.device.type == "cuda"


def batch_target(device: torch.device, workers: int) -> BatchTarget:
    """Where and how batches are made for a device. Worker processes could not keep anything on it."""
    return BatchTarget(device) if workers else BatchTarget(device, free_store_bytes(device), decoding_threads(device))


def free_store_bytes(device: torch.device) -> int:
    """Bytes of a device's own memory that a data set may take: a quarter of what is free."""
    return free_bytes(device) // 4 if device.type == "cuda" else 0


def decoding_threads(device: torch.device, beside_cpu: int = 1) -> int:
    """Threads that decode images: while a GPU computes, the cores are free for it; a CPU has hardly any to spare."""
    return beside_cpu if device.type == "cpu" else max(beside_cpu, min(_MOST_DECODING, torch.get_num_threads()))


class ImageStore(Protocol):
    """Images of one size by index."""

    def put(self, indices: np.ndarray, images_BHWC: np.ndarray) -> None:
        """Store uint8 images."""
        ...

    def read(self, indices: np.ndarray, mirrored_B: np.ndarray) -> Tensor:
        """Images that were stored, some of them mirrored: float32 (B, C, H, W) in [-1, 1]."""
        ...


def make_store(count: int, shape: tuple[int, ...], place: BatchTarget) -> ImageStore | None:
    """A store for `count` images if all of them fit: on the device, else in memory, else None."""
    size = count * math.prod(shape)
    if size <= place.most_bytes:
        return _OnDevice(count, shape, place.device)
    return _InMemory(count, shape) if size <= place.cache_bytes else None


class _InMemory:
    def __init__(self, count: int, shape: tuple[int, ...]):
        self._images = np.empty((count, *shape), dtype=np.uint8)

    def put(self, indices: np.ndarray, images_BHWC: np.ndarray) -> None:
        self._images[indices] = images_BHWC

    def read(self, indices: np.ndarray, mirrored_B: np.ndarray) -> Tensor:
        return normalize(self._images[indices], mirrored_B)


class _OnDevice:
    """Only the indices travel to the device; what comes out equals `normalize` to the last bit."""

    def __init__(self, count: int, shape: tuple[int, ...], device: torch.device):
        self._images = torch.empty((count, *shape), dtype=torch.uint8, device=device)
        # A tensor: by a number, CUDA multiplies with its inverse, which rounds otherwise.
        self._middle = torch.tensor(MIDDLE, device=device)

    def put(self, indices: np.ndarray, images_BHWC: np.ndarray) -> None:
        self._images[self._sent(indices)] = self._sent(images_BHWC)

    def read(self, indices: np.ndarray, mirrored_B: np.ndarray) -> Tensor:
        images_BHWC = self._images[self._sent(indices)]
        mirrored_B111 = self._sent(mirrored_B)[:, None, None, None]
        images_BHWC = torch.where(mirrored_B111, images_BHWC.flip(2), images_BHWC)
        return images_BHWC.permute(0, 3, 1, 2).contiguous().float() / self._middle - 1

    def _sent(self, array: np.ndarray) -> Tensor:
        return send(torch.from_numpy(array), self._images.device)
