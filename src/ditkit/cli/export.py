"""`ditkit export`: a trained model as a file or folder that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..interop.export import _ENDINGS, _WRITERS, DTYPES, _check
from . import complete, console
from .annotated import MODEL, OUTPUT, Debug, Force, Json, MovedAutoencoder, Quiet, RawWeights, RunsDir

EXAMPLES = (
    "Examples:\n\nditkit export mnist --dtype float16\nditkit export faces --format diffusers --out faces-pipeline\n"
    "ditkit export runs/mnist --format onnx"
)

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
    from ..errors import unknown
    from ..io import text
    from ..io.paths import expanded
    from ..runs.folder import runs_dir as runs_place
    from ..runs.lookup import find_weights, model_name
    from ..runs.model_info import read_model_info
    from . import outputs
    from .sample_request import warn_of_damage

    for kind, word, known in (("format", form, complete.FORMATS), ("dtype", dtype, DTYPES)):
        if word not in known:
            raise unknown(kind, word, known)
    weights = find_weights(what, runs_place(runs_dir), ema=not no_ema, on_damage=warn_of_damage)
    info = read_model_info(weights)
    moved = outputs.autoencoder_folder(autoencoder)
    path = expanded(out) if out else Path(f"{model_name(weights)}-{info.step}{_ENDINGS[form]}")
    _check(info, form, path, force=force)
    with console.loading_torch(quiet=quiet):
        import torch

    _WRITERS[form](info, weights, path, getattr(torch, dtype), moved, quiet)
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    if as_json:
        console.data(json.dumps({"path": str(path), "format": form, "dtype": dtype, "bytes": size}))
        return
    console.say(f"{text.format_size(size)}, step {info.step}, {info.weights} weights", quiet=quiet)
    console.data(str(path))
