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
    """One image of the way: uint8 (H, W, C), and the labels that it lies between with the part of the second."""

    image: np.ndarray
    start: str | None
    end: str | None
    part: float


def interpolate(
    trained: Trained,
    labels: Sequence[str] | int,
    *,
    frames: int = 16,
    seed: int = 0,
    settings: SampleConfig | None = None,
    on_step: OnStep | None = None,
) -> list[Frame]:
    """The way through one image for each label, the i-th of seed `seed + i`, and back to the first: `frames` a stretch.

    With a sampler that adds noise of its own (ddpm), neighbours do not look alike. Raises UsageError for fewer than
    two images.
    """
    info = trained.info
    words = resolve_labels(info.labels, labels)
    settings = settings or info.config.sample
    if len(words) < 2:
        raise UsageError("a way needs two images at least", "name two labels, or one twice")
    shape, total = info.config.shape, len(words) * frames
    ends = [torch.randn(shape, generator=torch.Generator().manual_seed(seed + index)) for index in range(len(words))]
    places = [(index // frames, index % frames / frames) for index in range(total)]
    noise_NCHW = torch.stack([slerp(ends[stop], ends[(stop + 1) % len(ends)], part) for stop, part in places])
    network, ids, null_label = trained.network, [0] * total, 0
    if info.labels:
        rows = [info.labels.index(str(word)) for word in words]
        mixed = [(rows[stop], rows[(stop + 1) % len(rows)], part) for stop, part in places]
        network, ids, null_label = _with_labels_between(network, mixed), list(range(total)), total
    x_NCHW = draw(
        network,
        info.config.diffusion,
        shape=shape,
        labels=ids,
        null_label=null_label,
        seeds=[seed] * total,
        noise_NCHW=noise_NCHW,
        settings=settings,
        device=next(trained.network.parameters()).device,
        on_step=on_step,
    )
    device = next(trained.network.parameters()).device
    images = [to_uint8(trained.codec.to_images(one.to(device)))[0] for one in x_NCHW.split(1)]
    return [
        Frame(image, words[stop], words[(stop + 1) % len(words)], part)
        for image, (stop, part) in zip(images, places, strict=True)
    ]


def slerp(a: Tensor, b: Tensor, part: float) -> Tensor:
    """The point at `part` in [0, 1] of the great circle from a to b, whose lengths are alike (Shoemake 1985).

    A straight line would pass through noise that is too weak: at its middle by a factor of 0.71.
    """
    cosine = (a * b).sum() / (a.norm() * b.norm())
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle < 1e-4:
        return torch.lerp(a, b, part)
    return (torch.sin((1 - part) * angle) * a + torch.sin(part * angle) * b) / torch.sin(angle)


def _with_labels_between(network: DiT, mixed: Sequence[tuple[int, int, float]]) -> DiT:
    """A copy whose label number i is the mixture i of two of the network's; the null label is behind them."""
    found = copy.deepcopy(network)
    weight_LD = network.label.weight.detach()
    rows = [torch.lerp(weight_LD[first], weight_LD[second], part) for first, second, part in mixed]
    found.label = nn.Embedding.from_pretrained(torch.stack([*rows, weight_LD[-1]]))
    found.classes = len(rows)
    return found
