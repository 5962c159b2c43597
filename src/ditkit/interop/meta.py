"""Networks with the tensor names of Meta's DiT: DiT, SiT and what else projects.py knows; of latents or of pixels.

DiT predicts noise and, in as many channels more, where the variance lies. Half of SiT's output channels are never used.
Where a flow goes the other way than ditkit's, that is folded into the weights. D width, C channels, P patch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import recipes
from ..autoencoders.files import PIXEL, descriptions, image_channels, is_repository
from ..autoencoders.files import settings as autoencoder_settings
from ..errors import CheckpointError, UsageError
from ..models import presets
from ..runs.model_info import LatentStats, ModelInfo
from . import remap
from .base import ForeignModel, class_names, note_on_label_drop
from .choice import Choice
from .projects import ORIGINAL, Meaning, meaning_of
from .remap import Layer, block_layers, linear, patch_layer, reordered
from .stated import Stated, given
from .unsupported import without_extras

MARK = "x_embedder.proj.weight"
_TABLE = "y_embedder.embedding_table.weight"
_AUTOENCODER = "sd-vae-ft-ema"
_MODULATION = (0, 1, 3, 4, 2, 5)  # ditkit's shift, scale, shift, scale, gate, gate in its shift, scale, gate, shift, …
_LAYERS = {"attention.qkv": "attn.qkv", "attention.out": "attn.proj", "mlp.first": "mlp.fc1", "mlp.second": "mlp.fc2"}
_NAMES = (  # a pattern of all of its tensors
    r"pos_embed|y_embedder\.embedding_table\.weight|(x_embedder\.proj|t_embedder\.mlp\.[02]|"
    r"(blocks\.\d+|final_layer)\.adaLN_modulation\.1|final_layer\.linear|"
    r"blocks\.\d+\.(attn\.qkv|attn\.proj|mlp\.fc[12]))\.(weight|bias)"
)
_VAES = {"ema": "sd-vae-ft-ema", "mse": "sd-vae-ft-mse", "none": PIXEL, "identity": PIXEL}
_VAE = ("vae", "vae_type", "vae_name", "vae_model", "vae_path", "pretrained_vae_model_name_or_path", "autoencoder")
# how checkpoints call their step
_STEPS = ("train_steps", "global_step", "global_steps", "step", "steps", "iteration", "iter", "current_step")


def read(
    choice: Choice, about: Mapping[str, Any], path: Path, settings: Mapping[str, Any], project: str | None = None
) -> ForeignModel:
    """The model of a file.

    Args:
        choice: its weights.
        about: what it says beside them.
        path: where it is, for errors.
        settings: what the user says, as nested settings: they come before every guess.
        project: one of projects.PROJECTS, if the user says it.

    Raises CheckpointError for damage and for what ditkit does not have, UsageError where it has to be asked.
    """
    if project == ORIGINAL:
        raise UsageError(f"{path} is no network of {project}: it has the tensors of a DiT", "leave out --project")
    with remap.reading(path, "a DiT of Meta's"):
        states = [remap.state_dict(network.tensors) for network in choice.networks]
        reader = _Reader(states[0], about, path, settings, project)
        _check_blocks(states[0], reader.width, reader.meaning.origin, path)
        networks = [without_extras(state, _NAMES, path) for state in states]
        info, meaning = reader.model_info(), reader.meaning
        ema, *raw = [_converted(state, info, meaning) for state, _ in networks]
    return ForeignModel(
        origin=meaning.origin,
        info=info,
        ema=ema,
        raw=raw[0] if raw else None,
        names_are_assumed=True,
        notes=(*reader.assumed, *note_on_label_drop(info), *networks[0][1]),
    )


class _Reader:
    """Finds out what a file leaves open: believes the user, then the file, then assumes and says so."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        about: Mapping[str, Any],
        path: Path,
        settings: Mapping[str, Any],
        project: str | None,
    ):
        self.tensors, self.path, self.settings = tensors, path, settings
        self.about, self.stated = about, Stated(about)
        self.assumed: list[str] = []
        self.width, self.channels, self.patch, _ = tensors[MARK].shape
        self.meaning = meaning_of(tensors, self.stated, about.get("betas"), path, project)
        self._assume(self.meaning.note)

    def _assume(self, text: str) -> None:
        self.assumed += [f"assumed: {text}"] if text else []

    def model_info(self) -> ModelInfo:
        data, autoencoder = self._images()
        classes, label_drop = self._classes()
        diffusion, step = self.meaning.diffusion, self._step()
        rates = {"lr": self.stated.number("lr", "learning_rate"), "ema_decay": self.stated.number("ema_decay")}
        config = recipes.build(
            {
                "data": {"name": "folder", **data, "flip": True},
                "model": {
                    "patch": self.patch,
                    "width": self.width,
                    "depth": remap.depth(self.tensors),
                    "heads": self._heads(),
                    "mlp_ratio": len(self.tensors["blocks.0.mlp.fc1.weight"]) / self.width,
                    "learned_sigma": diffusion["objective"] == "learned-sigma",
                    "frequency_size": self.tensors["t_embedder.mlp.0.weight"].shape[1],
                },
                "diffusion": {**diffusion, "stratified": False, "label_drop": label_drop},
                "autoencoder": autoencoder,
                "optim": {name: rate for name, rate in rates.items() if rate and 1e-6 <= rate < 1},
                "sample": {
                    "sampler": "flow-dpmpp" if self.meaning.is_flow else "dpmpp",
                    "steps": 25,
                    "guidance": self._guidance() if label_drop else 1.0,
                },
                "train": {"steps": max(1, step)},
            }
        )
        stats = LatentStats(mean=(0.0,) * self.channels, std=(1.0,) * self.channels, autoencoder="")
        latents = None if autoencoder["name"] == PIXEL else stats
        return ModelInfo(config=config, labels=class_names(classes), step=step, latents=latents)

    def _guidance(self) -> float:
        scale = self.stated.number("cfg_scale", "guidance_scale")
        return scale if scale and 1 <= scale <= 20 else 4.0

    def _step(self) -> int:
        """As the checkpoint says, or its name: 0400000.pt."""
        steps = [self.about.get(name) for name in _STEPS]
        named = int(self.path.stem) if re.fullmatch(r"\d{5,9}", self.path.stem) else 0
        return next((step for step in steps if type(step) is int and 0 < step < 10**9), named)

    def _heads(self) -> int:
        """No tensor says it; another width's number is not believed."""
        stated = self.stated.count("num_heads", "heads", "n_heads", "num_attention_heads")
        heads = given(self.settings, "model", "heads") or (stated if stated and self.width % stated == 0 else None)
        word = self.stated.text("model", "model_type") or ""  # SiT-S/2, LightningDiT-XL/1
        size = presets.SIZES.get(re.sub("^.*[ds]it-", "dit-", word.lower()).partition("/")[0])
        if heads or (size and size[0] == self.width):
            return heads or (size or (0, 0, 0))[2]
        usual = {row[0]: row[2] for row in presets.SIZES.values() if row[0] >= presets.SIZES["dit-s"][0]}
        heads = remap.known_heads(self.width, usual, self.path)
        self._assume(f"{heads} attention heads, as usual at width {self.width}; if not: --set model.heads=N")
        return heads

    def _classes(self) -> tuple[int, float]:
        """The number of classes, and how often a label was left out in training, 0 where guidance has no meaning."""
        if _TABLE not in self.tensors:
            self._assume("a network without labels, as it has no label table")
            return 0, 0.0
        rows = len(self.tensors[_TABLE])
        stated, typed = self.stated.count("num_classes"), given(self.settings, "diffusion", "label_drop")
        dropped = self.stated.number("class_dropout_prob", "cfg_prob", "label_drop", "label_dropout")
        dropped = float(typed) if isinstance(typed, (int, float)) else dropped
        if rows == 1:  # one class and no dropout: it is what an unlabelled network has
            return 0, 0.0
        if stated in (rows, rows - 1):
            classes = stated
        elif dropped is not None:
            classes = rows - (dropped > 0)
        else:
            classes = rows - 1
            told = f"although it says {stated} classes, " if stated else ""
            if rows != 1001:
                self._assume(
                    f"{told}{classes} classes, and the last row of its label table stands for no label; if it is a "
                    "class, too: --set diffusion.label_drop=0"
                )
        return classes, 0.0 if classes == rows else 0.1 if dropped is None else dropped

    def _images(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The sections [data] and [autoencoder]."""
        autoencoder = self._autoencoder()
        shrink, ratio = autoencoder["shrink"], self.stated.count("downsample_ratio")
        size = self.stated.count("image_size", "resolution", "img_size", "image_resolution")
        if "pos_embed" in self.tensors:
            tokens = self.tensors["pos_embed"].shape[1]
            side = math.isqrt(tokens) * self.patch
            if math.isqrt(tokens) ** 2 != tokens:
                raise CheckpointError(
                    f"{self.path} has {tokens} positions, which make no square",
                    "ditkit reads such DiTs of squares only",
                )
        elif typed := given(self.settings, "data", "image_size") or size:
            side = int(typed) // shrink
        else:
            raise UsageError(
                f"{self.path} holds no table of positions, so it does not say how large its images are",
                "say it with --set data.image_size=256",
            )
        size = ratio * side if ratio else size
        if size and size != side * shrink and not self.settings.get("autoencoder"):
            raise UsageError(
                f"{self.path} says that its images have {size} pixels a side, and its network models {side}: "
                "that is not " + ("pixels" if shrink == 1 else f"{shrink} times fewer"),
                "say what its latents are of: --autoencoder NAME|FOLDER|HUB-ID, or pixel for none",
            )
        colours = self.channels if autoencoder["name"] == PIXEL else image_channels(autoencoder["source"])
        return {"image_size": side * shrink, "channels": colours}, autoencoder

    def _autoencoder(self) -> dict[str, Any]:
        """The user's; else none for 1 and 3 channels, and Stable Diffusion's for 4, as these projects have it."""
        typed = self.settings.get("autoencoder") or {}
        word = (self.stated.text(*_VAE) or "").rstrip("/")
        name = _VAES.get(word, word.rpartition("/")[2])
        is_pixel = self.channels in (1, 3) and word in ("", "ema", "mse")  # with DiT's default left as it was
        name = PIXEL if typed.get("name", name) == PIXEL or (is_pixel and not typed) else name or _AUTOENCODER
        is_known = name in descriptions()
        section = autoencoder_settings(name if is_known else _AUTOENCODER) | dict(typed if name != PIXEL else {})
        if self.channels not in ((1, 3) if name == PIXEL else (section["channels"],)) or not (is_known or typed):
            what = ", which are no pixels" if name == PIXEL else ", and does not say whose latents these are"
            raise UsageError(
                f"{self.path} models {self.channels} channels{what if is_known else f' of {word}'}",
                f"name their autoencoder: --autoencoder {word if is_repository(word) else 'taesd3'}, a folder in "
                "diffusers' layout, a hub repository (user/name), or pixel for none",
            )
        if not (typed or word or name == PIXEL):
            self._assume(f"latents of {_AUTOENCODER}; if not: --autoencoder NAME|FOLDER|HUB-ID")
        return section


def _check_blocks(tensors: Mapping[str, Tensor], width: int, origin: str, path: Path) -> None:
    """Raise CheckpointError for a network whose blocks are not those of the paper on DiT."""
    modulation = tensors.get("blocks.0.adaLN_modulation.1.weight")
    if modulation is not None and len(modulation) != 6 * width:
        raise CheckpointError(
            f"{path} is a network like {origin} with {len(modulation) / width:g} modulations a block instead of 6",
            "ditkit reads DiTs as the paper has them",
        )


def _converted(tensors: dict[str, Tensor], info: ModelInfo, meaning: Meaning) -> dict[str, Tensor]:
    """ditkit's tensors; removes all of the others."""
    if "pos_embed" in tensors:
        remap.check_positions(tensors.pop("pos_embed")[0], info.config)
    weight, bias = linear(tensors, "t_embedder.mlp.0")
    if meaning.is_reversed:
        weight = remap.shift_timestep_features(weight, start=1, sign=-1)
    layers = {
        "patch_in": patch_layer(tensors, "x_embedder.proj"),
        "time.first": (weight, bias),
        "time.second": linear(tensors, "t_embedder.mlp.2"),
    }
    table = tensors.pop(_TABLE, torch.zeros(0, info.config.model.width))
    if len(table) == len(info.labels):  # it never dropped a label: without one, only the timestep counts
        table = torch.cat([table, torch.zeros(1, table.shape[1])])
    for index in range(info.config.model.depth):
        block = f"blocks.{index}"
        layers |= {f"{block}.{name}": layer for name, layer in block_layers(tensors, block, _LAYERS).items()}
        layers[f"{block}.modulation"] = reordered(linear(tensors, f"{block}.adaLN_modulation.1"), _MODULATION)
    layers["final.modulation"] = linear(tensors, "final_layer.adaLN_modulation.1")
    layers["final.linear"] = _prediction(linear(tensors, "final_layer.linear"), info, meaning)
    return {"label.weight": table, **remap.flat(layers)}


def _prediction(layer: Layer, info: ModelInfo, meaning: Meaning) -> Layer:
    """The last layer with channels first; those that are used, with the sign of ditkit's velocity."""
    patch, channels = info.config.model.patch, info.config.shape[0]
    weight, bias = remap.channels_first(layer, patch, len(layer[1]) // patch**2)
    used = channels * patch**2 * (2 if info.config.model.learned_sigma else 1)
    is_negated = meaning.is_reversed and meaning.diffusion["objective"] == "velocity"
    sign = -1 if is_negated else 1
    return sign * weight[:used], sign * bias[:used]
