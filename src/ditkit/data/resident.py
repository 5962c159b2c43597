"""Decoded images kept in memory or on the GPU; decoding threads."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..runtime.device import free_bytes
from .pixels import MIDDLE, made_ready

MOST_CACHE_BYTES = 256 << 20  # of the computer's own memory


@dataclass(frozen=True)
class BatchTarget:
    """Where batches are wanted, and what may be done there for them to be in time."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    most_bytes: int = 0  # of its memory, which a whole data set may take
    threads: int = 1  # that decode images

    @property
    def pins(self) -> bool:
        """Whether it copies from pinned memory while the CPU goes on."""
        return self.device.type == "cuda"


class ImageStore(Protocol):
    """Images of one size, uint8 (height, width, channels), by index."""

    def put(self, indices: np.ndarray, images_BHWC: np.ndarray) -> None: ...

    def ready(self, indices: np.ndarray, mirrored: np.ndarray) -> Tensor:
        """Those of some indices, which are there, of which some are mirrored: float32 (B, C, H, W) in [-1, 1]."""
        ...


def make_store(count: int, shape: tuple[int, ...], cache_bytes: int, place: BatchTarget) -> ImageStore | None:
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
        self._middle = torch.tensor(MIDDLE, device=device)

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


_MOST_DECODING = 16  # threads


def free_store_bytes(device: torch.device) -> int:
    """Bytes of a device's own memory that a data set may take: a quarter of what is free."""
    return free_bytes(device) // 4 if device.type == "cuda" else 0


def decoding_threads(device: torch.device, beside_cpu: int = 1) -> int:
    """Threads that decode images: while a GPU computes, the cores are free for it; a CPU has hardly any to spare."""
    return beside_cpu if device.type == "cpu" else max(beside_cpu, min(_MOST_DECODING, torch.get_num_threads()))


def batch_target(device: torch.device, workers: int) -> BatchTarget:
    """Where and how batches are made for a device. Other `workers` that read could not keep anything on it."""
    return BatchTarget(device) if workers else BatchTarget(device, free_store_bytes(device), decoding_threads(device))
