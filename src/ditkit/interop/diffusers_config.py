"""What diffusers' DiTPipeline can express of a model, and its JSON files; plain data, no torch.

Two limits of that pipeline shape the rest: its null label is always 1000, and it divides latents by one number only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UsageError
from ..models.presets import DIFFUSERS, OF_DIFFUSERS
from ..runs.model_info import ModelInfo
from .diffusers_scheduler import FINE, PREDICTIONS

INDEX = "model_index.json"
PIPELINE = "DiTPipeline"
TRANSFORMER = "DiTTransformer2DModel"
NULL_LABEL = 1000
_ACTIVATIONS = {"gelu-tanh": "gelu-approximate", "gelu": "gelu"}
_APPROXIMATED = ("model.frequency_shift", "model.frequency_size", "diffusion.timesteps")
_WHY = {"model.frequency_shift": ": its features of a timestep have other frequencies than the paper's DiT"}
_LARGEST_EPS = 1e-5  # the class's default, where Meta's DiT and ditkit have 1e-6
_FIXED = {  # of a transformer: what ditkit's network is
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "attention_bias": True,
}


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is one that DiTPipeline saved, by its index."""
    try:
        return read_json(folder / INDEX).get("_class_name") == PIPELINE
    except CheckpointError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError if it cannot be read."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(tree, dict):
            return tree
        why = "it is not a JSON object"
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise CheckpointError(f"cannot read {path}: {why}", "get the pipeline's folder again")


def as_json(class_name: str, tree: Mapping[str, Any]) -> list[bytes]:
    """The content of a config file of diffusers."""
    head = {"_class_name": class_name, "_diffusers_version": metadata.version("diffusers")}
    return [(json.dumps({**head, **tree}, indent=2) + "\n").encode()]


def check_expressible(info: ModelInfo, *, approximately: bool = False) -> None:
    """Raise UsageError, naming every setting in the way, unless DiTPipeline can do what the model does.

    `approximately` leaves out what `approximate.approximated` changes.
    """
    obstacles = _obstacles(info)
    near = all(setting in _APPROXIMATED for setting, _, _ in obstacles)
    if obstacles and not (near and approximately):
        listed = ", ".join(f"{setting}={_as_text(value)} (it needs {needed})" for setting, value, needed in obstacles)
        model = [setting for setting, _, _ in obstacles if setting.startswith("model.")]
        preset = f"train one that it can express, with --set model.preset={DIFFUSERS}" if model else ""
        fitted = "--approximate fits the weights to its timesteps, and says how far off that is" if near else ""
        even = ", not even approximately" if approximately else ""
        raise UsageError(
            f"diffusers' {PIPELINE} cannot express {listed}{even}",
            "; ".join(filter(None, [fitted, preset, "`--format safetensors` and `onnx` take every model"])),
        )


def _obstacles(info: ModelInfo) -> list[tuple[str, Any, str]]:
    """(setting, its value, what DiTPipeline needs) of each setting that it cannot express."""
    config, diffusion, kind = info.config, info.config.diffusion, info.config.autoencoder.name
    wrong = [
        (f"model.{key}", getattr(config.model, key), _as_text(needed) + _WHY.get(f"model.{key}", ""))
        for key, needed in OF_DIFFUSERS.items()
        if getattr(config.model, key) != needed and not (key == "mlp" and config.model.mlp in _ACTIVATIONS)
    ]
    objectives = [objective for process, objective in PREDICTIONS if process == diffusion.process]
    if diffusion.objective not in objectives:
        needed = f"on a {diffusion.process} one of {', '.join(objectives)}"
        wrong.append(("diffusion.objective", diffusion.objective, needed))
    if diffusion.process == "flow" and diffusion.timesteps < FINE:
        wrong.append(("diffusion.timesteps", diffusion.timesteps, f"{FINE} or more: it cuts them to integers"))
    height, width = config.data.image_size
    if height != width:
        wrong.append(("data.image_size", f"{height}x{width}", "a square"))
    if len(info.labels) > NULL_LABEL:
        wrong.append(("labels", len(info.labels), f"at most {NULL_LABEL}"))
    if kind not in ("pixel", "kl", "tiny"):
        wrong.append(("autoencoder.name", kind, "pixel, kl or tiny"))
    if kind == "tiny" and info.latents and len(set(info.latents.std)) > 1:
        needed = "sd-vae-ft-mse or another kl: a tiny one squashes latents before its first layer"
        wrong.append(("autoencoder.name", kind, needed))
    return wrong


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def transformer_config(info: ModelInfo) -> dict[str, Any]:
    """The settings of diffusers' transformer for a model that it can express."""
    model, (channels, side, _) = info.config.model, info.config.shape
    return {
        "num_attention_heads": model.heads,
        "attention_head_dim": model.width // model.heads,
        "in_channels": channels,
        "out_channels": 2 * channels if model.learned_sigma else channels,
        "num_layers": model.depth,
        "sample_size": side,
        "patch_size": model.patch,
        "activation_fn": _ACTIVATIONS[model.mlp],
        "num_embeds_ada_norm": NULL_LABEL,
        "norm_eps": 1e-6,
        **_FIXED,
    }


def read_transformer_config(tree: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], int, int]:
    """The section [model], and channels and side of its input. Raises CheckpointError for other networks."""
    wrong = {key: tree.get(key, needed) for key, needed in _FIXED.items() if tree.get(key, needed) != needed}
    kinds = {activation: mlp for mlp, activation in _ACTIVATIONS.items()}
    if (activation := tree.get("activation_fn", "gelu-approximate")) not in kinds:
        wrong["activation_fn"] = activation
    if not float(tree.get("norm_eps", _LARGEST_EPS)) <= _LARGEST_EPS:
        wrong["norm_eps"] = tree["norm_eps"]
    heads, patch = int(tree.get("num_attention_heads", 16)), int(tree.get("patch_size", 2))
    channels, side = int(tree.get("in_channels", 4)), int(tree.get("sample_size", 32))
    outputs = int(tree.get("out_channels") or channels)
    if outputs not in (channels, 2 * channels):
        wrong["out_channels"] = outputs
    if wrong:
        listed = ", ".join(f"{key}={_as_text(value)}" for key, value in wrong.items())
        raise CheckpointError(f"{path}: ditkit has no transformer of {listed}", "it reads DiTs as the paper has them")
    model = {
        **OF_DIFFUSERS,
        "mlp": kinds[activation],
        "width": heads * int(tree.get("attention_head_dim", 72)),
        "heads": heads,
        "depth": int(tree.get("num_layers", 28)),
        "patch": patch,
        "learned_sigma": outputs == 2 * channels,
    }
    return model, channels, side
