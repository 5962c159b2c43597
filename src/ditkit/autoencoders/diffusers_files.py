"""Autoencoders in diffusers' layout: found on disk or fetched from the hub, and known by their SHA-256."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import RunConfig
from ..errors import DataError, UsageError
from ..paths import expanded
from .contract import Posterior
from .presets import CONFIG, autoencoder_folder, described, is_repository, read_config

WEIGHTS = "diffusion_pytorch_model.safetensors"


def find_files(config: RunConfig) -> Path:
    """The folder of the config's autoencoder, fetched if it has to be. Raises DataError if it is not to be had."""
    source = config.autoencoder.source
    if source is None:
        raise UsageError(f"the autoencoder {config.autoencoder.name!r} needs weights", "name them with --autoencoder")
    path = expanded(source)
    if path.is_dir():
        folder = autoencoder_folder(path)
    elif is_repository(source):
        from ..downloads.hub import snapshot

        wanted = (CONFIG, WEIGHTS)
        folder = snapshot(
            source, kind="model", revision=config.autoencoder.revision, wanted=lambda name: name in wanted
        )
    else:
        raise DataError(f"the autoencoder's folder {source} does not exist", "name it with --autoencoder FOLDER")
    if not (folder / WEIGHTS).is_file():
        raise DataError(f"{folder} lacks {WEIGHTS}", "ditkit reads no pickles (.bin): get the safetensors file")
    _check(config, folder)
    return folder


def _check(config: RunConfig, folder: Path) -> None:
    """Raise UsageError if the files are of another shape than the settings say, or of other images."""
    tree, wanted = read_config(folder), config.autoencoder
    found = described(tree)
    for key, value in found.items():
        if getattr(wanted, key) != value:
            raise UsageError(
                f"the autoencoder in {folder} has {key} {value}, the settings say {getattr(wanted, key)}",
                "use --autoencoder, which reads it off the files",
            )
    if tree.get("in_channels", 3) != config.data.channels:
        raise UsageError(
            f"the autoencoder in {folder} is for images of {tree.get('in_channels', 3)} channels, "
            f"not of {config.data.channels}",
            f"use --set data.channels={tree.get('in_channels', 3)}, or --autoencoder pixel",
        )


def fingerprint(folder: Path) -> str:
    """A SHA-256 of config and weights."""
    digest = hashlib.sha256(json.dumps(read_config(folder), sort_keys=True).encode())
    with (folder / WEIGHTS).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
        found = encoded.latent_dist
        return Posterior((found.mean - self._shift) * self._scale, found.std * self._scale)

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        latent_BCHW = latent_BCHW / self._scale + self._shift
        return self.network.decode(latent_BCHW.contiguous(memory_format=torch.channels_last)).sample


def _read(kind: type[Any], folder: Path) -> Any:
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of settings that older versions wrote
    try:
        return kind.from_pretrained(str(folder), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False)
    except Exception as error:  # whatever diffusers, safetensors or torch raise for a damaged file
        if "torchvision" in str(error):
            raise  # of another make than torch: no fault of the file
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot read the autoencoder in {folder}: {why}", "get its files again") from None
    finally:
        logging.set_verbosity(before)
