"""Classifier-free guidance (Ho & Salimans 2022): conditional and unconditional in one doubled batch.

Autoguidance (Karras et al. 2024, arXiv 2406.02507) takes a worse model's conditional prediction for the unconditional.
B batch, C channels, H W image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..objectives.contract import Network

Mixer = Callable[[Tensor, Tensor, float], Tensor]  # (weak, strong, scale) to guided, all (B, C, H, W)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly, and in which part of the noise range, labels are followed.

    At scale 1, and outside the interval, the conditional prediction stays as it is; scale 0 ignores the label.
    `null_label` is the number of labels: 0 for a model that is unconditional, or trained without dropping labels, so
    that only another model can guide it.
    """

    scale: float
    start: float  # lowest noise level, in [0, 1], at which to guide (Kynkäänniemi et al. 2024)
    stop: float  # highest
    null_label: int
    has_guide: bool = False  # a guide stands for the null label

    def active(self, noise_level: float) -> bool:
        """Whether a network call at this noise level is guided."""
        return self.scale != 1 and (self.null_label > 0 or self.has_guide) and self.start <= noise_level <= self.stop


def guided(
    network: Network,
    x_BCHW: Tensor,
    timestep_B: Tensor,
    label_B: Tensor,
    noise_level: float,
    guidance: Guidance,
    guide: Network | None = None,
    mixer: Mixer = torch.lerp,
) -> Tensor:
    """Guided prediction weak + scale (strong - weak) (Ho & Salimans 2022, eq. 6, whose w is scale - 1).

    `strong` is the network's prediction for the labels, `weak` that of `guide` for the same labels, or the network's
    for the null label if there is no guide. Returns (B, C or 2C, H, W), float32; the C channels of a learned variance,
    if the network has them, are the conditional ones.
    """
    if not guidance.active(noise_level):
        return network(x_BCHW, timestep_B, label_B).float()
    if guide is not None:
        strong, weak = network(x_BCHW, timestep_B, label_B).float(), guide(x_BCHW, timestep_B, label_B).float()
    else:
        null_B = torch.full_like(label_B, guidance.null_label)
        both = torch.cat([x_BCHW, x_BCHW]), torch.cat([timestep_B, timestep_B]), torch.cat([label_B, null_B])
        strong, weak = network(*both).float().chunk(2)
    channels = x_BCHW.shape[1]
    mixed_BCHW = mixer(weak[:, :channels], strong[:, :channels], guidance.scale)
    return torch.cat([mixed_BCHW, strong[:, channels:]], dim=1)
