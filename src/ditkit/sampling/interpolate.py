"""From one image to the next: noise along a great circle, labels along a line between their embeddings.

Legend: N images, C channels, H W image, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint.loading import Trained
from ..config import SampleConfig
from ..data.pixels import to_uint8
from ..errors import UsageError
from ..models.dit import DiT
from ..runs.model_info import resolve_labels
from .generate import OnStep, draw


@dataclass(frozen=True)
class Frame:
    """One image, uint8 (H, W, C), and the labels that it is between, with the share `part` of the second."""

    image: np.ndarray
    start: str | None
    end: str | None
    part: float


def interpolate(
    trained: Trained,
    labels: Sequence[str | int] | int,
    *,
    frames: int = 16,
    seed: int = 0,
    settings: SampleConfig | None = None,
    on_step: OnStep | None = None,
) -> list[Frame]:
    """Images on the way through one image for each label, and back to the first.

    With a sampler that adds noise (ddpm), neighbouring frames do not look alike.

    Args:
        trained: the model.
        labels: names of classes, or a number of images: two or more, the ends of the stretches.
        frames: images from one end to the next.
        seed: end i has the noise of seed `seed + i`.
        settings: of sampling; those of the model if None.
        on_step: called after each network call (see `sampling.generate.OnStep`).

    Raises:
        UsageError: for fewer than two labels.
    """
    info = trained.info
    ends = resolve_labels(info.labels, labels)
    settings = settings or info.config.sample
    if len(ends) < 2:
        raise UsageError("an interpolation needs at least two images", "name two labels, or one twice")
    shape, total = info.config.shape, len(ends) * frames
    noises = [torch.randn(shape, generator=torch.Generator().manual_seed(seed + index)) for index in range(len(ends))]
    # (start, end, share of the end) of each frame, as indices of `ends`
    points = [(index // frames, (index // frames + 1) % len(ends), index % frames / frames) for index in range(total)]
    noise_NCHW = torch.stack([slerp(noises[start], noises[end], part) for start, end, part in points])
    network, ids, null_label = trained.network, [0] * total, 0
    if info.labels:
        rows = [info.labels.index(str(label)) for label in ends]
        mixtures = [(rows[start], rows[end], part) for start, end, part in points]
        network, ids, null_label = _with_mixed_labels(network, mixtures), list(range(total)), total
    device = next(trained.network.parameters()).device
    x_NCHW = draw(
        network,
        info.config.diffusion,
        shape=shape,
        labels=ids,
        null_label=null_label,
        seeds=[seed] * total,
        noise_NCHW=noise_NCHW,
        settings=settings,
        device=device,
        on_step=on_step,
    )
    images = [to_uint8(trained.codec.to_images(x_1CHW.to(device)))[0] for x_1CHW in x_NCHW.split(1)]
    return [
        Frame(image, ends[start], ends[end], part) for image, (start, end, part) in zip(images, points, strict=True)
    ]


def slerp(a: Tensor, b: Tensor, part: float) -> Tensor:
    """The point at `part` in [0, 1] of the great circle from a to b, of about equal norms (Shoemake 1985).

    A straight line would pass through noise that is too weak: at its middle by a factor of 0.71.
    """
    cosine = (a * b).sum() / (a.norm() * b.norm())
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle < 1e-4:
        return torch.lerp(a, b, part)
    return (torch.sin((1 - part) * angle) * a + torch.sin(part * angle) * b) / torch.sin(angle)


def _with_mixed_labels(network: DiT, mixtures: Sequence[tuple[int, int, float]]) -> DiT:
    """A copy whose label i is mixture i, (first, second, share of the second); the null label comes last."""
    mixed = copy.deepcopy(network)
    weight_LD = network.label.weight.detach()
    rows = [torch.lerp(weight_LD[first], weight_LD[second], part) for first, second, part in mixtures]
    mixed.label = nn.Embedding.from_pretrained(torch.stack([*rows, weight_LD[-1]]))
    mixed.classes = len(rows)
    return mixed
