"""`ditkit export`: a trained model as a file or folder that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import complete, console
from .options import MODEL, OUTPUT, Debug, Force, Json, Quiet, RawWeights, RunsDir
from .sample import MovedAutoencoder

if TYPE_CHECKING:
    from ..card import Card

EXAMPLES = (
    "Examples:\n\nditkit export mnist --dtype float16\nditkit export faces --format diffusers --out faces-pipeline\n"
    "ditkit export runs/mnist --format onnx"
)
DTYPES = ("float32", "float16", "bfloat16")
_ENDINGS = {"safetensors": ".safetensors", "diffusers": "-diffusers", "onnx": ".onnx"}

What = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN|CHECKPOINT|FILE]",
        autocompletion=complete.run_names,
        show_default="the newest run",
        help="What is exported: a run by name or folder, a checkpoint folder, or a .safetensors file.",
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="|".join(complete.FORMATS),
        autocompletion=complete.formats,
        help="safetensors: one file that `ditkit sample --model` takes. diffusers: a folder for its DiTPipeline. "
        "onnx: the network alone.",
        rich_help_panel=OUTPUT,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="PATH",
        show_default="named after run and step, here",
        help="The file, or the folder of a pipeline, to write.",
        rich_help_panel=OUTPUT,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="|".join(DTYPES),
        autocompletion=lambda incomplete: [name for name in DTYPES if name.startswith(incomplete)],
        help="Numbers of the weights; the 16-bit ones take half the room.",
        rich_help_panel=MODEL,
    ),
]


def run(
    what: What = None,
    form: Format = "safetensors",
    out: Out = None,
    dtype: Dtype = "float32",
    no_ema: RawWeights = False,
    autoencoder: MovedAutoencoder = None,
    force: Force = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a trained model for others to use: EMA weights alone, a diffusers pipeline, or ONNX."""
    from ..card import read_card
    from ..errors import unknown
    from ..paths import expanded
    from ..run_folder import find_weights
    from ..run_folder import runs_dir as runs_place
    from . import words
    from .order import model_name, tell_of_damage

    for kind, word, known in (("format", form, complete.FORMATS), ("dtype", dtype, DTYPES)):
        if word not in known:
            raise unknown(kind, word, known)
    weights = find_weights(what, runs_place(runs_dir), ema=not no_ema, on_damage=tell_of_damage)
    card = read_card(weights)
    moved = words.autoencoder_folder(autoencoder)
    path = expanded(out) if out else Path(f"{model_name(weights)}-{card.step}{_ENDINGS[form]}")
    _check(card, form, path, force=force)
    with console.loading_torch(quiet=quiet):
        import torch

    _WRITERS[form](card, weights, path, getattr(torch, dtype), moved, quiet)
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    if as_json:
        console.data(json.dumps({"path": str(path), "format": form, "dtype": dtype, "bytes": size}))
        return
    console.say(f"{words.spoken_size(size)}, step {card.step}, {card.weights} weights", quiet=quiet)
    console.data(str(path))


def _check(card: Card, form: str, path: Path, *, force: bool) -> None:
    """Raise DitkitError, before torch loads, for a model that the format cannot express or a place it cannot go to."""
    from ..errors import UsageError
    from ..weights.diffusers_configs import check_expressible, is_pipeline
    from . import words

    if form == "diffusers":
        check_expressible(card)
        if path.name in ("", ".."):
            raise UsageError(f"--out: {path} names no new folder", "e.g. --out my-pipeline")
        if force and path.exists() and not (path.is_dir() and (is_pipeline(path) or not any(path.iterdir()))):
            raise UsageError(f"{path} is there and no pipeline of diffusers", "choose another place with --out")
    elif path.is_dir() or path.suffix != _ENDINGS[form]:
        raise UsageError(f"--out: {path} is not the name of a {form} file", f"e.g. --out model{_ENDINGS[form]}")
    words.check_file(path, force=force)


def _safetensors(card: Card, weights: Path, path: Path, dtype: Any, _moved: Path | None, _quiet: bool) -> None:
    from .. import tensor_files
    from ..card import KEY
    from ..checkpoint import load_network
    from ..weights.output import cast, write_file

    tensors = cast(load_network(card, weights).state_dict(), dtype)
    write_file(path, tensor_files.pieces(tensors, {KEY: card.to_json()}))


def _diffusers(_card: Card, weights: Path, path: Path, dtype: Any, moved: Path | None, quiet: bool) -> None:
    from ..checkpoint import load
    from ..weights import diffusers
    from . import targets

    with targets.watching(quiet=quiet):
        trained = load(weights, autoencoder=moved)
    diffusers.write(trained, path, dtype)
    sample = trained.card.config.sample
    label = f"pipe.get_label_ids([{json.dumps(trained.card.labels[0])}])" if trained.card.labels else "[0]"
    console.say(
        f"pipe = diffusers.DiTPipeline.from_pretrained({json.dumps(str(path))}); "
        f"pipe({label}, guidance_scale={sample.guidance:g}, num_inference_steps={sample.steps}).images[0].show()",
        quiet=quiet,
    )


def _onnx(card: Card, weights: Path, path: Path, dtype: Any, _moved: Path | None, quiet: bool) -> None:
    from ..checkpoint import load_network
    from ..weights import onnx

    onnx.check_parts()
    with console.spinner("exporting, then checking with onnxruntime …", quiet=quiet):
        difference = onnx.write(card, load_network(card, weights), path, dtype)
    console.say(f"onnxruntime and torch differ by {difference:.1g} of the largest prediction", quiet=quiet)


_WRITERS = {"safetensors": _safetensors, "diffusers": _diffusers, "onnx": _onnx}
