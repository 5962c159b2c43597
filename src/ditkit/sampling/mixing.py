"""How the predictions with and without a label become one where guidance is strong: without saturated colours.

Guidance rescale (Lin et al. 2023, arXiv 2305.08891, eq. 15-16), and adaptive projected guidance, APG (Sadat et al.
2024, arXiv 2410.02416, algorithm 1). B batch, C channels, H W image.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..config import SampleConfig
from ..objectives.contract import from_clean_and_noise, to_clean_and_noise
from .guidance import Mixer

_IMAGE = (1, 2, 3)  # the dimensions of one image


class Mixing:
    """What mixes the predictions of each network call of one batch; `reset` before the next one."""

    def __init__(self, settings: SampleConfig, prediction: str):
        self._settings, self._prediction = settings, prediction
        self._average_BCHW: Tensor | None = None

    def reset(self) -> None:
        """Forget the calls so far."""
        self._average_BCHW = None

    def at(self, x_BCHW: Tensor, signal: Tensor, noise: Tensor) -> Mixer:
        """The mixer of a call: x_t, and its signal and noise level, ()."""
        mixer = partial(self._projected, x_BCHW, signal, noise) if self._settings.apg else torch.lerp
        return partial(self._rescaled, mixer) if self._settings.guidance_rescale else mixer

    def _rescaled(self, mixer: Mixer, weak_BCHW: Tensor, strong_BCHW: Tensor, scale: float) -> Tensor:
        """Mixed, with the standard deviation of each image moved towards that of the strong prediction."""
        mixed_BCHW, part = mixer(weak_BCHW, strong_BCHW, scale), self._settings.guidance_rescale
        ratio_B111 = strong_BCHW.std(_IMAGE, keepdim=True) / mixed_BCHW.std(_IMAGE, keepdim=True).clamp(min=1e-12)
        return mixed_BCHW * (part * ratio_B111 + (1 - part))

    def _projected(
        self, x_BCHW: Tensor, signal: Tensor, noise: Tensor, weak_BCHW: Tensor, strong_BCHW: Tensor, scale: float
    ) -> Tensor:
        """The strong estimate of x_0, led away from the weak one at right angles to itself, as a prediction again."""
        clean_BCHW, weaker_BCHW = (
            to_clean_and_noise(self._prediction, output, x_BCHW, signal, noise)[0]
            for output in (strong_BCHW, weak_BCHW)
        )
        step_BCHW = self._averaged(clean_BCHW - weaker_BCHW)
        if self._settings.apg_norm is not None:
            length_B111 = torch.linalg.vector_norm(step_BCHW, dim=_IMAGE, keepdim=True)
            step_BCHW = step_BCHW * (self._settings.apg_norm / length_B111.clamp(min=1e-12)).clamp(max=1)
        power_B111 = (clean_BCHW**2).sum(_IMAGE, keepdim=True).clamp(min=1e-12)
        along_BCHW = (step_BCHW * clean_BCHW).sum(_IMAGE, keepdim=True) / power_B111 * clean_BCHW
        clean_BCHW = clean_BCHW + (scale - 1) * (step_BCHW - along_BCHW)
        eps_BCHW = (x_BCHW - signal * clean_BCHW) / noise
        return from_clean_and_noise(self._prediction, clean_BCHW, eps_BCHW, signal, noise)

    def _averaged(self, step_BCHW: Tensor) -> Tensor:
        """The step with the momentum of those of earlier calls."""
        if self._average_BCHW is not None and self._settings.apg_momentum:
            step_BCHW = step_BCHW + self._settings.apg_momentum * self._average_BCHW
        self._average_BCHW = step_BCHW
        return step_BCHW
