"""Export(): safetensors, diffusers, onnx."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError, unknown
from ..io import paths, safetensors
from ..io.atomic import FREE_SPACE, write_file
from ..io.packages import check_packages
from ..io.progress import LOADING_TORCH, Watch, no_progress
from ..models.size import parameters
from ..runs.folder import runs_dir
from ..runs.lookup import find_weights, model_name
from ..runs.model_info import METADATA_KEY, ModelInfo, read_model_info
from ..runs.public import public_card
from ..runs.remarks import usable_guidance
from .diffusers_config import check_expressible, is_pipeline

DTYPES = ("float32", "float16", "bfloat16")
_ENDINGS = {"safetensors": ".safetensors", "diffusers": "-diffusers", "onnx": ".onnx"}
FORMATS = tuple(_ENDINGS)
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST_ONNX = 2_000_000_000  # bytes of a protobuf message


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file or folder that was written, its size in bytes, and the model in it.

    `difference` is by how much onnxruntime differs from torch, or an approximation from the model, as a part of the
    largest prediction; None where neither is concerned.
    """

    path: Path
    size: int
    info: ModelInfo
    difference: float | None = None


def export(
    model: str | Path | None = None,
    path: str | Path | None = None,
    *,
    format: str = "safetensors",
    dtype: str = "float32",
    ema: bool = True,
    autoencoder: str | Path | None = None,
    approximate: bool = False,
    force: bool = False,
    progress: Watch = no_progress,
) -> Exported:
    """Write a trained model for others to use.

    Args:
        model: a run by name or folder (the newest if None), a checkpoint folder, a weights file, or hf://user/name.
        path: the file, or the folder of a pipeline, to write; named after run and step, here, if None.
        format: safetensors (one file that `load` takes), diffusers (a folder for its DiTPipeline), or onnx (the
            network alone).
        dtype: of the weights: float32, float16 or bfloat16.
        ema: take the averaged weights instead of the raw ones.
        autoencoder: the folder of the run's autoencoder, if it has moved.
        approximate: for diffusers, fit the weights to its features of timesteps where they are other ones.
        force: overwrite what is there.
        progress: shown what is being done.

    Raises:
        UsageError: for unknown words, for a path that is taken, and for a model that the format cannot express.
        CheckpointError: for weights that are damaged.
    """
    check_words(format, dtype)
    weights = find_weights(None if model is None else str(model), runs_dir(), ema=ema)
    info = read_model_info(weights)
    path = Path(path) if path else Path(f"{model_name(weights)}-{info.step}{_ENDINGS[format]}")
    _check(info, format, dtype, path, approximate=approximate, force=force)
    with progress(LOADING_TORCH):
        import torch

        from ..checkpoint.loading import load, load_network
        from . import diffusers, onnx
        from .approximate import approximated
        from .base import cast
    numbers, difference = getattr(torch, dtype), None
    if format == "diffusers":
        trained = load(weights, autoencoder=autoencoder, dtype="float32", kernels="off")
        if approximate:
            trained, difference = approximated(trained)
        diffusers.write(trained, path, numbers)
    elif format == "onnx":
        with progress("exporting, then checking with onnxruntime …"):
            difference = onnx.write(public_card(info), load_network(info, weights), path, numbers)
    else:
        tensors = cast(load_network(info, weights).state_dict(), numbers)
        write_file(path, safetensors.pieces(tensors, {METADATA_KEY: public_card(info).to_json()}), FREE_SPACE)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return Exported(path=path, size=size, info=info, difference=difference)


def python_of(pipeline: Exported) -> str:
    """The Python that draws an image with an exported pipeline of diffusers."""
    labels = pipeline.info.labels
    settings, _ = usable_guidance(pipeline.info.config, len(labels), guide=False)
    label = f"pipe.get_label_ids([{json.dumps(labels[0])}])" if labels else "[0]"
    drawn = f"pipe({label}, guidance_scale={settings.guidance:g}, num_inference_steps={settings.steps})"
    opened = f"diffusers.DiTPipeline.from_pretrained({json.dumps(str(pipeline.path))})"
    return f"pipe = {opened}; {drawn}.images[0].show()"


def check_words(format: str = FORMATS[0], dtype: str = DTYPES[0]) -> None:
    """Raise UsageError for a format or dtype that does not exist."""
    for kind, word, known in (("format", format, FORMATS), ("dtype", dtype, DTYPES)):
        if word not in known:
            raise unknown(kind, word, known)


def _check(info: ModelInfo, form: str, dtype: str, path: Path, *, approximate: bool, force: bool) -> None:
    """Raise DitkitError, before torch loads, for a model that the format cannot express or a place it cannot go to."""
    if approximate and form != "diffusers":
        raise UsageError("--approximate is for --format diffusers", "the other formats take every model as it is")
    if form == "diffusers":
        check_expressible(info, approximately=approximate)
        if path.name in ("", ".."):
            raise UsageError(f"--out: {path} names no new folder", "e.g. --out my-pipeline")
        if force and path.exists() and not (path.is_dir() and (is_pipeline(path) or not any(path.iterdir()))):
            raise UsageError(f"{path} is there and no pipeline of diffusers", "choose another place with --out")
    elif path.is_dir() or path.suffix != _ENDINGS[form]:
        raise UsageError(f"--out: {path} is not the name of a {form} file", f"e.g. --out model{_ENDINGS[form]}")
    paths.check_file(path, force=force, folder=form == "diffusers")
    if form == "onnx":
        _check_onnx(info, dtype)


def _check_onnx(info: ModelInfo, dtype: str) -> None:
    """Raise UsageError for missing packages, and for what the format cannot hold."""
    check_packages("the format onnx", ONNX_PACKAGES, "onnx")
    if dtype == "bfloat16":
        raise UsageError("hardly anything runs ONNX in bfloat16", "use --dtype float16 or float32")
    if parameters(info.config, len(info.labels)) * (2 if dtype == "float16" else 4) > _LARGEST_ONNX:
        raise UsageError("an ONNX file holds 2 GB at most", "use --dtype float16, or --format safetensors")
