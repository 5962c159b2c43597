"""Autoencoders by name, and the settings of any other in diffusers' layout; plain data, no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError, unknown
from ..paths import expanded, spelled

PIXEL = "pixel"
CONFIG = "config.json"
BY_HAND = "check the network, or name a folder that holds it in diffusers' layout: --autoencoder FOLDER"
# name: kind, source, channels, shrink, what it is
_ROWS = {
    "taesd": ("tiny", "madebyollin/taesd", 4, 8, "tiny, for Stable Diffusion's latents"),
    "taesd3": ("tiny", "madebyollin/taesd3", 16, 8, "tiny, for Stable Diffusion 3's latents"),
    "sd-vae-ft-ema": ("kl", "stabilityai/sd-vae-ft-ema", 4, 8, "the one of the DiT paper"),
    "sd-vae-ft-mse": ("kl", "stabilityai/sd-vae-ft-mse", 4, 8, "the same, trained for smoother images"),
}
_KINDS = {"AutoencoderKL": "kl", "AutoencoderTiny": "tiny"}


def descriptions() -> dict[str, str]:
    """Every name with what it is."""
    rows = {name: f"{row[4]}: {row[2]} channels, {row[3]} times smaller" for name, row in _ROWS.items()}
    return {PIXEL: "none: the network models the pixels themselves", **rows}


def settings(word: str) -> dict[str, Any]:
    """The section [autoencoder] for a name above, a folder in diffusers' layout, or a hub repository (`user/name`).

    A folder's config is read. Raises UsageError for a word that is none of them, DataError for a folder that does not
    hold an autoencoder that ditkit knows.
    """
    nothing = {"source": None, "revision": None, "channels": None, "shrink": 1}
    if word == PIXEL:
        return {"name": PIXEL, **nothing}
    if word in _ROWS:
        kind, source, channels, shrink, _ = _ROWS[word]
        return {**nothing, "name": kind, "source": source, "channels": channels, "shrink": shrink}
    path = expanded(word)
    if path.is_dir():
        folder = autoencoder_folder(path)
        return {**nothing, **described(read_config(folder)), "source": spelled(folder.resolve())}
    if is_repository(word):
        from ..downloads.hub import snapshot

        folder = snapshot(word, kind="model", wanted=lambda name: name == CONFIG, by_hand=BY_HAND)
        return {**nothing, **described(read_config(folder)), "source": word}
    if "/" in word or word.startswith("."):
        raise UsageError(f"there is no folder {word}", "check the path")
    raise unknown("autoencoder", word, descriptions())


def is_repository(word: str) -> bool:
    """Whether it is written like a repository of the hub."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", word) is not None


def autoencoder_folder(path: Path) -> Path:
    """The folder itself, or the `vae` folder in that of a whole pipeline. Raises DataError if neither is one."""
    for folder in (path, path / "vae"):
        if (folder / CONFIG).is_file():
            return folder
    raise DataError(
        f"{path} holds no autoencoder: there is no {CONFIG}",
        "give a folder in diffusers' layout, with config.json and diffusion_pytorch_model.safetensors",
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of an autoencoder. Raises DataError if they cannot be read."""
    try:
        tree = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if isinstance(tree, dict):
            return tree
        why = "it is no JSON object"
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise DataError(f"cannot read {folder / CONFIG}: {why}", "get the autoencoder again")


def described(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Kind, channels and shrink of an autoencoder's config. Raises DataError for a kind that ditkit cannot use."""
    name = tree.get("_class_name")
    if name not in _KINDS:
        raise DataError(f"{name or 'this'} is not an autoencoder that ditkit knows", f"it knows {' and '.join(_KINDS)}")
    blocks, channels = tree.get("block_out_channels"), tree.get("latent_channels", 4)
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= 8 or type(channels) is not int:
        raise DataError("the config of the autoencoder is damaged", "get the autoencoder again")
    return {"name": _KINDS[name], "channels": channels, "shrink": 2 ** (len(blocks) - 1)}
