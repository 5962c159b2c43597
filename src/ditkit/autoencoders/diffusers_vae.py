"""What the autoencoders of diffusers have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import RunConfig
from ..errors import DataError
from ..io.weight_files import variant_of
from .contract import Posterior
from .files import find_files, fingerprint, weights


class DiffusersAutoencoder:
    """An autoencoder of diffusers, scaled and shifted as its own config says."""

    def __init__(self, config: RunConfig, kind: type[Any], device: torch.device | str):
        folder = find_files(config)
        network = _read(kind, folder).to(device).eval().requires_grad_(False)
        self.network = network.to(memory_format=torch.channels_last)  # convolutions are a fifth faster on CPUs
        self.channels, self.shrink = config.shape[0], config.autoencoder.shrink
        self.fingerprint = fingerprint(folder)
        self._scale = self.network.config.get("scaling_factor") or 1.0
        self._shift = self.network.config.get("shift_factor") or 0.0

    def encode(self, image_BCHW: Tensor) -> Posterior:
        encoded = self.network.encode(image_BCHW.contiguous(memory_format=torch.channels_last))
        if hasattr(encoded, "latents"):
            return Posterior((encoded.latents - self._shift) * self._scale)
        gaussian = encoded.latent_dist
        return Posterior((gaussian.mean - self._shift) * self._scale, gaussian.std * self._scale)

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        latent_BCHW = latent_BCHW / self._scale + self._shift
        return self.network.decode(latent_BCHW.contiguous(memory_format=torch.channels_last)).sample


def _read(kind: type[Any], folder: Path) -> Any:
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of settings that older versions wrote
    try:
        name = weights(folder)[0].name  # of a pickle diffusers, too, reads tensors only
        options = {"use_safetensors": name.endswith(".safetensors"), "variant": variant_of(name) or None}
        return kind.from_pretrained(str(folder), local_files_only=True, low_cpu_mem_usage=False, **options)
    except Exception as error:  # diffusers, safetensors and torch raise many kinds for a damaged file
        if "torchvision" in str(error):
            raise  # torchvision of another release than torch: no fault of the file
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot read the autoencoder in {folder}: {why}", "get its files again") from None
    finally:
        logging.set_verbosity(before)
