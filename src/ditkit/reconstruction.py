"""What an autoencoder loses: images encoded and decoded again, and how near they come."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .autoencoders.contract import open_autoencoder
from .config import RunConfig
from .data.contract import Dataset
from .errors import DataError
from .images import to_tensor, to_uint8


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """An image before and after."""

    original: np.ndarray  # uint8 (H, W, C)
    decoded: np.ndarray
    label: str | None

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio in dB, of levels 0 to 255; more is better, infinite for equal images."""
        difference = self.original.astype(np.float64) - self.decoded
        error = float((difference**2).mean())
        return 10 * math.log10(255**2 / error) if error else math.inf


@torch.inference_mode()
def reconstruct(
    config: RunConfig,
    dataset: Dataset,
    count: int,
    *,
    device: torch.device | str = "cpu",
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> list[Reconstruction]:
    """Up to `count` readable images, spread over the data set, as the network would see them and as they come back.

    Raises DataError if none can be read, or the autoencoder is not to be had.
    """
    autoencoder = open_autoencoder(config, device)
    wanted = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()
    found: list[Reconstruction] = []
    for number, index in enumerate(wanted, start=1):
        try:
            image, label_id = dataset[index]
        except DataError:
            continue
        image_BCHW = to_tensor(image[None]).to(device)
        (decoded,) = to_uint8(autoencoder.decode(autoencoder.encode(image_BCHW).mean_BCHW))
        label = dataset.labels[label_id] if dataset.labels else None
        found.append(Reconstruction(original=image, decoded=decoded, label=label))
        on_image(number, len(wanted))
    if not found:
        raise DataError("none of these images can be read", "`ditkit data show` names them and says why")
    return found
