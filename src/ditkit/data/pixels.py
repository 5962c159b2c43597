"""Images in memory, uint8 (B, H, W, C), and as networks see them, float32 (B, C, H, W) in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

MIDDLE = np.float32(127.5)  # of the levels of a pixel: x = level / MIDDLE - 1


def normalize(images_BHWC: np.ndarray, mirrored_B: np.ndarray) -> Tensor:
    """Uint8 images in [-1, 1], those with a true `mirrored_B` mirrored (in the array that is handed in)."""
    images_BHWC[mirrored_B] = images_BHWC[mirrored_B, :, ::-1]
    # In numpy, because torch would start a second team of threads when called outside the main thread.
    x_BCHW = np.divide(images_BHWC.transpose(0, 3, 1, 2), MIDDLE, dtype=np.float32, order="C")
    x_BCHW -= 1
    return torch.from_numpy(x_BCHW)


def from_levels(levels: Tensor) -> Tensor:
    """Levels of pixels, 0 to 255, as float32 in [-1, 1]; shape, strides and device stay."""
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
