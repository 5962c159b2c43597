"""Uint8 HWC <-> float CHW in [-1, 1]: the only 127.5."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

MIDDLE = np.float32(127.5)  # of the values of a pixel


def made_ready(images_BHWC: np.ndarray, mirrored: np.ndarray) -> Tensor:
    """Images, uint8, which are written to, as float32 (B, C, H, W) in [-1, 1], of which some are mirrored."""
    images_BHWC[mirrored] = images_BHWC[mirrored, :, ::-1]
    # In numpy, because torch would start a second team of threads when called outside the main thread.
    x_BCHW = np.divide(images_BHWC.transpose(0, 3, 1, 2), MIDDLE, dtype=np.float32, order="C")
    x_BCHW -= 1
    return torch.from_numpy(x_BCHW)


def from_levels(levels: Tensor) -> Tensor:
    """Values of pixels, 0 … 255, as float32 in [-1, 1]; shape, strides and device stay."""
    return levels.float() / 127.5 - 1


def to_levels(x: Tensor) -> Tensor:
    """[-1, 1] (values beyond it are clipped, NaN is black) to uint8; the shape stays."""
    clean = torch.nan_to_num(x.detach().float(), nan=-1.0).clamp(-1, 1)
    return ((clean + 1) * 127.5).round().to(torch.uint8)


def to_uint8(x_BCHW: Tensor) -> list[np.ndarray]:
    """Images from [-1, 1] to uint8 arrays (height, width, channels), by `to_levels`."""
    return list(to_levels(x_BCHW).permute(0, 2, 3, 1).contiguous().cpu().numpy())


def to_tensor(images: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """uint8 (..., height, width, channels) to float32 (..., channels, height, width) in [-1, 1]; a list is stacked."""
    array = np.ascontiguousarray(images if isinstance(images, np.ndarray) else np.stack(list(images)))
    return from_levels(torch.from_numpy(array).movedim(-1, -3).contiguous())
