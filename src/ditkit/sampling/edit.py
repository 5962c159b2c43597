"""Editing an image with a trained model: inpainting a part of it, or drawing it again from a noisy copy (img2img)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoint.loading import Trained
from ..config import SampleConfig
from ..data.pixels import to_tensor
from ..errors import UsageError
from ..objectives.contract import Process
from ..runs.model_info import resolve_labels
from .generate import OnStep, Sample, sample_batches


@dataclass(frozen=True, kw_only=True)
class Edit:
    """The image to start from: clean, as the network models it (C, H, W), and which part of it stays.

    `strength` in (0, 1] is how far back towards noise the image goes first (SDEdit, Meng et al. 2022, arXiv
    2108.01073); 1 is all noise. `keep_HW` is 1 where the image stays as it is, between 0 and 1 where it is blended.
    """

    source_CHW: Tensor
    strength: float = 1.0
    keep_HW: Tensor | None = None

    def first_step(self, calls: int) -> int:
        """The first network call, of so many, that is made."""
        return min(calls - 1, calls - max(1, round(self.strength * calls)))

    def noisy(self, noise_BCHW: Tensor, process: Process, timestep: Tensor) -> Tensor:
        """The image with as much of the noise as there is at a timestep ()."""
        signal, level = (factor.to(noise_BCHW.device) for factor in process.signal_noise(timestep))
        return signal * self.source_CHW.to(noise_BCHW.device) + level * noise_BCHW

    def blend_known(self, x_BCHW: Tensor, known: Tensor) -> Tensor:
        """What is drawn, with what is known where the image stays (Lugmayr et al. 2022, arXiv 2201.09865, eq. 8)."""
        return x_BCHW if self.keep_HW is None else x_BCHW.lerp(known.expand_as(x_BCHW), self.keep_HW.to(x_BCHW.device))


def edit(
    trained: Trained,
    image: np.ndarray,
    labels: Sequence[str | int] | int,
    *,
    paint: np.ndarray | None = None,
    strength: float = 1.0,
    seed: int = 0,
    settings: SampleConfig | None = None,
    batch_size: int | None = None,
    on_step: OnStep | None = None,
) -> list[Sample]:
    """One edited image for each label: inpainted where `paint` is true, or drawn again from a noisy copy.

    Inpainting is that of Lugmayr et al. 2022 (RePaint, arXiv 2201.09865) without its resampling; the rest of the
    image stays as it is to the last bit. Noisy copies are SDEdit's (Meng et al. 2022, arXiv 2108.01073).

    Args:
        trained: the model.
        image: uint8 (H, W, C) of the model's size.
        labels: names of classes, or a number of images.
        paint: booleans (H, W), true where the image is drawn again; everywhere if None.
        strength: in (0, 1], how much noise the image starts with: little keeps the composition, 1 keeps nothing.
        seed: image i is drawn with seed `seed + i`.
        settings: of sampling; those of the model if None.
        batch_size: images drawn at once; chosen if None.
        on_step: called after each network call (see `sampling.generate.OnStep`).

    Raises:
        UsageError: for an image of another size, a strength outside its range and a `paint` without a true value.
    """
    height, width = trained.info.config.data.image_size
    if image.shape != (height, width, trained.info.config.data.channels):
        raise UsageError(f"the image is {image.shape}, the model draws {height}x{width}", "make it fit first")
    if not 0 < strength <= 1:
        raise UsageError(f"a strength of {strength:g} is not above 0 and at most 1", "0.6 is usual")
    if paint is not None and not paint.any():
        raise UsageError("the mask is black: there is nothing to paint", "make the part to paint white")
    device = next(trained.network.parameters()).device
    source_CHW = trained.codec.from_images(to_tensor(image)[None].to(device))[0]
    keep_HW = None if paint is None else 1 - _shrunk(torch.from_numpy(paint), source_CHW)
    batches = sample_batches(
        trained,
        resolve_labels(trained.info.labels, labels),
        settings=settings,
        seed=seed,
        edit=Edit(source_CHW=source_CHW, strength=strength, keep_HW=keep_HW),
        batch_size=batch_size,
        on_step=on_step,
    )
    samples = [sample for batch in batches for sample in batch]
    if paint is None:
        return samples
    return [replace(sample, image=np.where(paint[:, :, None], sample.image, image)) for sample in samples]


def _shrunk(paint_HW: Tensor, latent_CHW: Tensor) -> Tensor:
    """The mask as 0 and 1 at the size of the latent: 1 wherever any of its pixels is to be painted."""
    mask_1HW = F.adaptive_max_pool2d(paint_HW.float()[None], latent_CHW.shape[-2:])
    return mask_1HW[0].to(latent_CHW.device)
