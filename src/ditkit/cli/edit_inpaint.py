"""`ditkit edit inpaint`: a part of an image painted anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .annotated import (
    DATA,
    Debug,
    Device,
    Force,
    Guidance,
    Json,
    Labels,
    Model,
    Quiet,
    RawWeights,
    RunsDir,
    Sampler,
    SampleSteps,
    Yes,
)
from .editing import Picture, carry_out
from .sample import Out, Seed

EXAMPLES = "Examples:\n\nditkit edit inpaint three.png --mask mask.png --labels '3*4'"

Mask = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        metavar="FILE",
        show_default=False,
        help="An image of the same size: white is painted, black stays.",
        rich_help_panel=DATA,
    ),
]


def run(
    picture: Picture = None,
    mask: Mask = None,
    labels: Labels = None,
    steps: SampleSteps = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    seed: Seed = "0",
    model: Model = None,
    no_ema: RawWeights = False,
    out: Out = None,
    force: Force = False,
    yes: Yes = False,
    as_json: Json = False,
    runs_dir: RunsDir = None,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Paint a part of an image anew, so that it fits the rest, which stays as it is.

    The image is cut and resized as the model's training images were. One result for each label.
    """
    from ..errors import UsageError

    if mask is None:
        raise UsageError("which part is to be painted?", "give an image that is white there: --mask FILE")
    carry_out(
        picture,
        labels,
        {"--steps": steps, "--guidance": guidance, "--sampler": sampler, "--seed": seed},
        mask=mask,
        strength=1.0,
        model=model,
        ema=not no_ema,
        out=out,
        force=force,
        yes=yes,
        as_json=as_json,
        runs_dir=runs_dir,
        device=device,
        quiet=quiet,
    )
