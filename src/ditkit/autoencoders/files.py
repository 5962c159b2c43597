"""An autoencoder's files: found on disk or fetched from the hub, checked, and known by their SHA-256; no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..config import RunConfig
from ..errors import DataError, UsageError
from ..paths import expanded
from .presets import BY_HAND, CONFIG, autoencoder_folder, described, is_repository, read_config

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

        revision, files = config.autoencoder.revision, (CONFIG, WEIGHTS)
        folder = snapshot(source, kind="model", revision=revision, wanted=files.__contains__, by_hand=BY_HAND)
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
