"""Export(): safetensors, diffusers, onnx."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli import console

if TYPE_CHECKING:
    from ..runs.model_info import ModelInfo

DTYPES = ("float32", "float16", "bfloat16")
_ENDINGS = {"safetensors": ".safetensors", "diffusers": "-diffusers", "onnx": ".onnx"}


def _check(info: ModelInfo, form: str, path: Path, *, force: bool) -> None:
    """Raise DitkitError, before torch loads, for a model that the format cannot express or a place it cannot go to."""
    from ..errors import UsageError
    from ..io import paths
    from .diffusers_config import check_expressible, is_pipeline

    if form == "diffusers":
        check_expressible(info)
        if path.name in ("", ".."):
            raise UsageError(f"--out: {path} names no new folder", "e.g. --out my-pipeline")
        if force and path.exists() and not (path.is_dir() and (is_pipeline(path) or not any(path.iterdir()))):
            raise UsageError(f"{path} is there and no pipeline of diffusers", "choose another place with --out")
    elif path.is_dir() or path.suffix != _ENDINGS[form]:
        raise UsageError(f"--out: {path} is not the name of a {form} file", f"e.g. --out model{_ENDINGS[form]}")
    paths.check_file(path, force=force)


def _safetensors(info: ModelInfo, weights: Path, path: Path, dtype: Any, _moved: Path | None, _quiet: bool) -> None:
    from ..checkpoint.loading import load_network
    from ..io import safetensors
    from ..io.atomic import write_file
    from ..runs.model_info import METADATA_KEY
    from .base import cast

    tensors = cast(load_network(info, weights).state_dict(), dtype)
    write_file(path, safetensors.pieces(tensors, {METADATA_KEY: info.to_json()}))


def _diffusers(_card: ModelInfo, weights: Path, path: Path, dtype: Any, moved: Path | None, quiet: bool) -> None:
    from ..checkpoint.loading import load
    from ..cli import datasets
    from . import diffusers

    with datasets.watching(quiet=quiet):
        trained = load(weights, autoencoder=moved)
    diffusers.write(trained, path, dtype)
    sample = trained.info.config.sample
    label = f"pipe.get_label_ids([{json.dumps(trained.info.labels[0])}])" if trained.info.labels else "[0]"
    console.say(
        f"pipe = diffusers.DiTPipeline.from_pretrained({json.dumps(str(path))}); "
        f"pipe({label}, guidance_scale={sample.guidance:g}, num_inference_steps={sample.steps}).images[0].show()",
        quiet=quiet,
    )


def _onnx(info: ModelInfo, weights: Path, path: Path, dtype: Any, _moved: Path | None, quiet: bool) -> None:
    from ..checkpoint.loading import load_network
    from . import onnx

    onnx.check_parts()
    with console.spinner("exporting, then checking with onnxruntime …", quiet=quiet):
        difference = onnx.write(info, load_network(info, weights), path, dtype)
    console.say(f"onnxruntime and torch differ by {difference:.1g} of the largest prediction", quiet=quiet)


_WRITERS = {"safetensors": _safetensors, "diffusers": _diffusers, "onnx": _onnx}
