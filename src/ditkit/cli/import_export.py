"""`ditkit import` and `ditkit export`: models of other projects become ditkit's, and the other way round."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ..io import text
from . import complete, console
from .opt import examples, only, opt
from .options import MODEL, Model, Output, Settings
from .outputs import show_result

DTYPE = opt(
    f"--dtype {'|'.join(complete.WEIGHT_DTYPES)}",
    "Numbers of the weights; the 16-bit ones take half the room.",
    default="float32",
    complete=complete.words(*complete.WEIGHT_DTYPES),
    panel=MODEL,
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Output: what comes in, and what it is called."""

    what: str | None = opt(
        "FILE|FOLDER|HUB-ID",
        "A .pt or .safetensors file, the folder of a DiTPipeline of diffusers or of a training's results, a repository "
        "of the hub (user/name, hf://user/name/file, either with @revision behind), or a web address of any of these.",
        complete=complete.folders,
        shown=False,
    )
    name: str | None = opt("--as NAME", "What it is called here.", shown="the file's")


@dataclass(frozen=True, kw_only=True)
class Unsaid:
    """Model: what the file does not say."""

    project: str | None = opt(
        f"--project {'|'.join(complete.PROJECTS)}",
        "Whose training the weights are from; it decides what the network predicts.",
        complete=complete.words(*complete.PROJECTS),
        shown="what the file says, else assumed, and said",
    )
    autoencoder: str | None = opt(
        "--autoencoder NAME|FOLDER|HUB-ID",
        "Whose latents the model draws: sd-vae-ft-mse, taesd3 …, a folder in diffusers' layout, a hub repository "
        "(user/name), or pixel for none.",
        complete=complete.autoencoders,
        shown="what the file says; pixel for 1 and 3 channels",
    )
    class_names: str | None = opt(
        "--class-names FILE|FOLDER|NAMES",
        "Names of the classes: a folder (its subfolders in alphabetical order), a .json file, one of a name a line, or "
        "cat,dog.",
        shown="what the file says, else numbers",
    )
    state_dict: str | None = opt(
        "--state-dict KEY",
        "Which weights of a file that holds those of several networks, as the import names them: ema_0.999.",
        shown="the averaged ones",
    )


@examples(
    "ditkit import vachanvy/Diffusion_Transformer --as celeba-original",
    "ditkit import DiT-XL-2-256x256.pt --as imagenet",
    "ditkit import ./my-pipeline",
)
def import_(
    source: Source,
    unsaid: Unsaid,
    settings: Annotated[Settings, only("settings")],
    output: Annotated[Output, only("runs_dir force yes json quiet")],
) -> None:
    """Bring in a model of another project: the original's ckpt.pt, Meta's DiT, SiT, a DiTPipeline of diffusers.

    The format is recognised. What is written looks like a run, so that `sample`, `make-gif`, `plot-loss` and
    `train … --init-from` take it by its name. Nothing in a pickle is executed.
    """
    from .. import recipes
    from ..errors import UsageError
    from ..interop.import_model import import_model
    from .datasets import watching

    if source.what is None:
        raise UsageError(
            "missing argument: what to import", "e.g. `ditkit import DiT-XL-2-256x256.pt`, or a repository of the hub"
        )
    tree, quiet = recipes.merge_settings(settings.settings or []), output.quiet or output.json
    with watching(quiet=quiet, yes=output.yes):
        model = import_model(
            source.what,
            name=source.name,
            runs_dir=output.runs_dir,
            settings=tree,
            project=unsaid.project,
            autoencoder=unsaid.autoencoder,
            class_names=unsaid.class_names,
            state_dict=unsaid.state_dict,
            force=output.force,
            progress=console.watch(quiet=quiet),
        )
    info, run = model.info, model.run
    count = f"{text.parameter_count(model.parameters)}, {text.plural(len(info.labels), 'label')}"
    step = f", step {info.step:,}" if info.step else ""
    losses = f", {model.losses:,} losses" if model.losses else ""
    console.say(f"this is {model.origin}: {count}{step}{losses}", quiet=quiet)
    for note in model.notes:
        console.say(note, quiet=quiet)
    word = text.shell_words(str(run) if output.runs_dir else run.name)
    labels = f" --labels {text.shell_words(*info.labels[:2])}" if info.labels else ""
    console.say(f"draw with `ditkit sample --model {word}{labels}`", quiet=quiet)
    record: dict[str, Any] = {"run": str(run), "checkpoint": str(model.checkpoint), "origin": model.origin}
    record |= {"parameters": model.parameters, "labels": len(info.labels), "step": info.step, "losses": model.losses}
    record |= {"notes": list(model.notes)}
    show_result(output, record, [str(run)])


@dataclass(frozen=True, kw_only=True)
class Target:
    """Output: what is written."""

    format: str = opt(
        f"--format {'|'.join(complete.FORMATS)}",
        "safetensors: one file that `ditkit sample --model` takes. diffusers: a folder for its DiTPipeline. onnx: the "
        "network alone.",
        default="safetensors",
        complete=complete.words(*complete.FORMATS),
    )
    out: Path | None = opt(
        "--out PATH", "The file, or the folder of a pipeline, to write.", shown="named after run and step, here"
    )
    dtype: str = DTYPE
    approximate: bool = opt(
        "--approximate",
        "For diffusers: fit the weights to its features of timesteps where the model has others, and say by how much "
        "that changes what it predicts.",
    )


WHAT = opt(
    "[RUN|CHECKPOINT|FILE]",
    "What is exported: a run by name or folder, a checkpoint folder, or a .safetensors file.",
    complete=complete.run_names,
    shown="the newest run",
)


@examples(
    "ditkit export mnist --dtype float16",
    "ditkit export faces --format diffusers --out faces-pipeline",
    "ditkit export imagenet --format diffusers --approximate",
    "ditkit export runs/mnist --format onnx",
)
def export_(
    target: Target,
    model: Annotated[Model, only("model no_ema autoencoder", model=WHAT)],
    output: Annotated[Output, only("force runs_dir json quiet")],
) -> None:
    """Write a trained model for others to use: EMA weights alone, a diffusers pipeline, or ONNX."""
    from ..interop.export import check_words, export, python_of
    from ..io.paths import expanded
    from ..io.text import format_size
    from ..runs.lookup import find_weights
    from .datasets import watching
    from .sample_request import warn_of_damage

    check_words(target.format, target.dtype)
    weights = find_weights(model.model, output.runs, ema=not model.no_ema, on_damage=warn_of_damage)
    with watching(quiet=output.quiet):
        exported = export(
            weights,
            expanded(target.out) if target.out else None,
            format=target.format,
            dtype=target.dtype,
            ema=not model.no_ema,
            autoencoder=model.autoencoder,
            approximate=target.approximate,
            force=output.force,
            progress=console.watch(quiet=output.quiet),
        )
    path, info = str(exported.path), exported.info
    if target.format == "diffusers":
        console.say(python_of(exported), quiet=output.quiet)
    if exported.difference is not None:
        part = f"{exported.difference:.1g} of the largest prediction"
        pair = (
            "onnxruntime and torch differ" if target.format == "onnx" else "approximated: on random inputs it differs"
        )
        console.say(f"{pair} by {part}", quiet=output.quiet)
    if output.json:
        about = {"path": path, "format": target.format, "dtype": target.dtype, "bytes": exported.size}
        console.data(json.dumps(about))
    else:
        size = format_size(exported.size)
        console.say(f"{size}, step {info.step}, {info.weights} weights", quiet=output.quiet)
        console.data(path)
