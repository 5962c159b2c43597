"""`ditkit import`: another project's weights become a model of ditkit's, by a name."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from ..interop.import_model import _summary, import_model
from . import complete, console
from .annotated import OUTPUT, Debug, Force, Json, Quiet, RunsDir, Settings, Yes

EXAMPLES = (
    "Examples:\n\nditkit import vachanvy/Diffusion_Transformer --as celeba-original\n"
    "ditkit import DiT-XL-2-256x256.pt --as imagenet\nditkit import ./my-pipeline"
)

What = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE|FOLDER|HUB-ID",
        autocompletion=complete.folders,
        show_default=False,
        help="A .pt or .safetensors file, the folder of a DiTPipeline of diffusers, or a repository of the hub "
        "(user/name, hf://user/name/file, either with @revision behind).",
    ),
]
As = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="NAME", show_default="the file's", help="What it is called here.", rich_help_panel=OUTPUT
    ),
]


def run(
    what: What = None,
    name: As = None,
    settings: Settings = None,
    runs_dir: RunsDir = None,
    force: Force = False,
    yes: Yes = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Bring in a model of another project: the original's ckpt.pt, Meta's DiT, SiT, a DiTPipeline of diffusers.

    The format is recognised. What is written looks like a run, so that `sample`, `make-gif`, `plot-loss` and
    `train … --init-from` take it by its name. Nothing in a pickle is executed.
    """
    from .. import recipes
    from ..errors import UsageError
    from ..runs.folder import runs_dir as runs_place

    if what is None:
        raise UsageError("import what?", "e.g. `ditkit import DiT-XL-2-256x256.pt`, or a repository of the hub")
    given = recipes.merge_settings(settings or [])
    runs = runs_place(runs_dir)
    folder, foreign = import_model(what, name, runs, settings=given, force=force, yes=yes, quiet=quiet or as_json)
    about = _summary(folder, foreign)
    if as_json:
        console.data(json.dumps(about))
    elif not quiet:
        _tell(about, foreign.info.labels, str(folder.path) if runs_dir else folder.path.name)
        console.data(str(folder.path))


def _tell(about: Mapping[str, Any], labels: Sequence[str], name: str) -> None:
    count = f"{about['parameters'] / 1e6:.1f}M parameters, {about['labels']} labels"
    trained = f", step {about['step']:,}" if about["step"] else ""
    losses = f", {about['losses']:,} losses" if about["losses"] else ""
    console.say(f"this is {about['origin']}: {count}{trained}{losses}")
    some = f" --labels {shlex.join(labels[:2])}" if labels else ""
    console.say(f"draw with `ditkit sample --model {shlex.quote(name)}{some}`")
