"""Classifier-free guidance (Ho & Salimans 2022): conditional and unconditional in one doubled batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .objectives.contract import Network


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly, and in which part of the noise range, labels are followed.

    At scale 1 (or where nothing guides) the conditional prediction stands as it is; 0 ignores the label.
    `null_label` is the number of labels: 0 for an unconditional model, which cannot be guided.
    """

    scale: float
    start: float  # lowest noise level, in [0, 1], at which to guide (Kynkäänniemi et al. 2024)
    stop: float  # highest
    null_label: int

    def active(self, noise_level: float) -> bool:
        """Whether a network call at this noise level is guided."""
        return self.scale != 1 and self.null_label > 0 and self.start <= noise_level <= self.stop


def guided(
    network: Network, x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor, noise_level: float, guidance: Guidance
) -> Tensor:
    """The network's output, uncond + scale (cond - uncond) in the first C channels; float32.

    The C channels of a learned variance, if the network gives them, are the conditional ones.
    """
    if not guidance.active(noise_level):
        return network(x_BCHW, timestep_B, label_B).float()
    null_B = torch.full_like(label_B, guidance.null_label)
    output = network(
        torch.cat([x_BCHW, x_BCHW]), torch.cat([timestep_B, timestep_B]), torch.cat([label_B, null_B])
    ).float()
    conditional, unconditional = output.chunk(2)
    channels = x_BCHW.shape[1]
    mixed_BCHW = unconditional[:, :channels].lerp(conditional[:, :channels], guidance.scale)
    return torch.cat([mixed_BCHW, conditional[:, channels:]], dim=1)
