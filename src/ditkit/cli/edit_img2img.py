"""`ditkit edit img2img`: an image drawn again, more or less like it was."""

from __future__ import annotations

from typing import Annotated

import typer

from .annotated import (
    DIFFUSION,
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

EXAMPLES = "Examples:\n\nditkit edit img2img three.png --labels 8 --strength 0.7"

Strength = Annotated[
    float,
    typer.Option(
        "--strength",
        metavar="0..1",
        help="How much noise to begin with: little keeps the composition, 1 keeps nothing.",
        rich_help_panel=DIFFUSION,
    ),
]


def run(
    picture: Picture = None,
    strength: Strength = 0.6,
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
    """Draw an image again from a noisy copy of it: another one of the same composition, perhaps of another label.

    The image is cut and resized as the model's training images were. One result for each label.
    """
    from ..errors import UsageError

    if not 0 < strength <= 1:
        raise UsageError(f"--strength: {strength:g} is not above 0 and at most 1", "e.g. --strength 0.6")
    carry_out(
        picture,
        labels,
        {"--steps": steps, "--guidance": guidance, "--sampler": sampler, "--seed": seed},
        mask=None,
        strength=strength,
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
