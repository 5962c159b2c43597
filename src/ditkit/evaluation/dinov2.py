"""DINOv2 as a judge of images (Oquab et al. 2023; for generated ones Stein et al. 2023, arXiv 2306.04675): ViT-L/14."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..downloads.hub import snapshot
from ..errors import DataError, UsageError

REPOSITORY = "facebook/dinov2-large"
SETTINGS, WEIGHTS = "config.json", "model.safetensors"
_BY_HAND = f"check the network; it downloads {REPOSITORY} once, 1.2 GB"
_AGAIN = "`ditkit data list` shows what is in the cache, `ditkit data remove` empties it"
_SIDE = 224  # pixels
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which DINOv2 was trained with


class Dinov2(nn.Module):
    """Images float32 (B, C, H, W) in [-1, 1], of one channel or three, to the class token (B, F) of the last layer."""

    mean_311: Tensor
    std_311: Tensor

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.register_buffer("mean_311", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std_311", torch.tensor(_STD)[:, None, None])

    def forward(self, image_BCHW: Tensor) -> Tensor:
        levels_B3HW = ((image_BCHW + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)
        resized = F.interpolate(levels_B3HW, (_SIDE, _SIDE), mode="bicubic", align_corners=False, antialias=True)
        normalised = (resized.clamp(0, 1) - self.mean_311) / self.std_311
        return self.network(pixel_values=normalised).pooler_output


def open_dinov2() -> tuple[Dinov2, Path]:
    """The network, and the file of its weights, fetched once.

    Raises UsageError without the package transformers, MachineError for the network or the disk, DataError for files
    that are no DINOv2.
    """
    try:
        from transformers import Dinov2Model  # pyright: ignore[reportMissingImports]
        from transformers.utils import logging  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            f"the features of DINOv2 need the package transformers ({error})",
            "`pip install 'ditkit[dinov2]'`, or choose others with --features",
        ) from None
    folder = snapshot(
        REPOSITORY, kind="model", revision=None, wanted=frozenset((SETTINGS, WEIGHTS)).__contains__, by_hand=_BY_HAND
    )
    logging.disable_progress_bar()
    try:
        loaded: Any = Dinov2Model.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        network, found = loaded
    except Exception as error:  # many kinds, not all of them exported
        raise DataError(f"{folder} holds no DINOv2 ({str(error).splitlines()[0]})", _AGAIN) from None
    if found["missing_keys"]:
        raise DataError(f"{folder} holds no DINOv2: it lacks {sorted(found['missing_keys'])[0]}", _AGAIN)
    return Dinov2(network), folder / WEIGHTS
