"""Names, folders and hub files of autoencoders; no torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import AutoencoderConfig, RunConfig
from ..errors import DataError, UsageError, unknown
from ..io.atomic import update_digest
from ..io.paths import as_stored, expanded, not_there
from ..io.weight_files import component_files, is_component

PIXEL = "pixel"
CONFIG = "config.json"
IN_PIPELINE = "vae"  # its folder in that of a whole pipeline
BY_HAND = (
    "check the network, or get config.json and diffusion_pytorch_model.safetensors by hand and name their folder: "
    "--autoencoder FOLDER"
)
# name: kind, source, channels, shrink, what it is
_ROWS = {
    "taesd": ("tiny", "madebyollin/taesd", 4, 8, "tiny, for Stable Diffusion's latents"),
    "taesd3": ("tiny", "madebyollin/taesd3", 16, 8, "tiny, for Stable Diffusion 3's latents"),
    "sd-vae-ft-ema": ("kl", "stabilityai/sd-vae-ft-ema", 4, 8, "the one of the DiT paper"),
    "sd-vae-ft-mse": ("kl", "stabilityai/sd-vae-ft-mse", 4, 8, "the same, trained for smoother images"),
}
_KINDS = {"AutoencoderKL": "kl", "AutoencoderTiny": "tiny"}


def descriptions() -> dict[str, str]:
    """Every name with a line on what it is."""
    rows = {name: f"{row[4]}: {row[2]} channels, {row[3]} times smaller" for name, row in _ROWS.items()}
    return {PIXEL: "none: the network models the pixels themselves", **rows}


def settings(word: str) -> dict[str, Any]:
    """The section [autoencoder] for a name above, a folder in diffusers' layout, or a hub repository (`user/name`).

    The folder's config is read. Raises UsageError for a word that is none of them, DataError for a folder that does not
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
        return {**nothing, **described(read_config(folder)), "source": as_stored(folder.resolve())}
    if is_repository(word):
        from ..io.snapshot import snapshot

        configs = {CONFIG, f"{IN_PIPELINE}/{CONFIG}"}
        folder = autoencoder_folder(snapshot(word, kind="model", wanted=configs.__contains__, by_hand=BY_HAND))
        return {**nothing, **described(read_config(folder)), "source": word}
    if "/" in word or word.startswith("."):
        raise UsageError(f"there is no folder {word}", not_there(word))
    raise unknown("autoencoder", word, descriptions())


def image_channels(source: str | None) -> int:
    """Colour channels of the images of an autoencoder that is in a folder; those on the hub are for 3."""
    path = expanded(source) if source else None
    return int(read_config(autoencoder_folder(path)).get("in_channels", 3)) if path and path.is_dir() else 3


def moved(autoencoder: AutoencoderConfig, word: str | Path) -> AutoencoderConfig:
    """The settings of a model's autoencoder that is now what `word` names, as `settings` takes it.

    Raises UsageError for latents of another shape, and as `settings` does.
    """
    new = AutoencoderConfig(**settings(str(word)))
    if (new.channels, new.shrink) != (autoencoder.channels, autoencoder.shrink):
        has, wanted = (_latents(config) for config in (new, autoencoder))
        raise UsageError(
            f"--autoencoder: {word} has {has}, the model {wanted}", "name the one that it was trained with"
        )
    return new


def _latents(autoencoder: AutoencoderConfig) -> str:
    if autoencoder.name == PIXEL:
        return "no latents"
    return f"latents of {autoencoder.channels} channels, {autoencoder.shrink} times smaller than images"


def is_repository(word: str) -> bool:
    """Whether it is written like a repository of the hub."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", word) is not None


def autoencoder_folder(path: Path) -> Path:
    """The folder itself, or the `vae` folder in that of a whole pipeline. Raises DataError if neither is one."""
    for folder in (path, path / IN_PIPELINE):
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
        why = "it is not a JSON object"
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


def find_files(config: RunConfig) -> Path:
    """The folder of the config's autoencoder, downloaded if need be. Raises DataError if it cannot be found."""
    source = config.autoencoder.source
    if source is None:
        raise UsageError(f"the autoencoder {config.autoencoder.name!r} needs weights", "name them with --autoencoder")
    path = expanded(source)
    if path.is_dir():
        folder = autoencoder_folder(path)
    elif is_repository(source):
        from ..io.snapshot import files_of, snapshot

        revision = config.autoencoder.revision
        names = files_of(source, kind="model", revision=revision, by_hand=BY_HAND, needed=is_component)
        below = "" if CONFIG in names else f"{IN_PIPELINE}/"
        files = component_files([name.removeprefix(below) for name in names], source)
        wanted = [below + name for name in (CONFIG, *files)]
        folder = snapshot(source, kind="model", revision=revision, wanted=wanted, by_hand=BY_HAND) / below
    else:
        raise DataError(f"the autoencoder's folder {source} does not exist", "name it with --autoencoder FOLDER")
    weights(folder)
    _check(config, folder)
    return folder


def _check(config: RunConfig, folder: Path) -> None:
    """Raise UsageError if the files are of another shape than the settings say, or of other images."""
    tree, settings_of_run = read_config(folder), config.autoencoder
    for key, value in described(tree).items():
        if getattr(settings_of_run, key) != value:
            raise UsageError(
                f"the autoencoder in {folder} has {key} {value}, the settings say {getattr(settings_of_run, key)}",
                "use --autoencoder, which reads it off the files",
            )
    if tree.get("in_channels", 3) != config.data.channels:
        raise UsageError(
            f"the autoencoder in {folder} is for images of {tree.get('in_channels', 3)} channels, "
            f"not of {config.data.channels}",
            f"use --set data.channels={tree.get('in_channels', 3)}, or --autoencoder pixel",
        )


def weights(folder: Path) -> list[Path]:
    """The files of the autoencoder's weights. Raises CheckpointError if there are none."""
    return [folder / name for name in component_files((path.name for path in folder.iterdir()), folder)]


def fingerprint(folder: Path) -> str:
    """A SHA-256 of config and weights."""
    digest = hashlib.sha256(json.dumps(read_config(folder), sort_keys=True).encode())
    for path in weights(folder):
        with path.open("rb") as file:
            update_digest(digest, file)
    return digest.hexdigest()
