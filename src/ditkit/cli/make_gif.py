"""Ditkit make-gif."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..sampling.animate import FRAMES, Drawing, _comparing, _training
from . import complete, console
from .annotated import (
    DIFFUSION,
    MODEL,
    OUTPUT,
    Debug,
    Device,
    Force,
    Guidance,
    Labels,
    Model,
    Quiet,
    RawWeights,
    RunsDir,
    Sampler,
    SampleSteps,
)

EXAMPLES = (
    "Examples:\n\nditkit make-gif\nditkit make-gif train --model runs/mnist\nditkit make-gif denoise --labels 3 1 4\n"
    "ditkit make-gif interpolate --labels 3 8 0"
)
KINDS = ("train", "denoise", "interpolate", "compare")

What = Annotated[
    str | None,
    typer.Argument(
        metavar="[train|denoise|interpolate|compare|RUN]",
        autocompletion=complete.gif_words,
        show_default="train",
        help="train: the sample grids over training. denoise: one drawing, step by step. interpolate: from one image "
        "to the next, through noise and labels. compare: the grids of several runs. Or a run, to take its grids.",
    ),
]
WhichRuns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN...]",
        autocompletion=complete.run_names,
        show_default="the newest run",
        help="The run; several to compare.",
    ),
]
Kind = Annotated[
    str | None,
    typer.Option(
        "--kind",
        metavar="train|denoise|interpolate|compare",
        show_default="train",
        help="The same as the first word.",
        rich_help_panel=MODEL,
    ),
]
Seed = Annotated[
    str, typer.Option("--seed", metavar="N", help="Image i is drawn from seed N + i.", rich_help_panel=DIFFUSION)
]
Frames = Annotated[
    int | None,
    typer.Option(
        "--frames",
        metavar="N",
        min=2,
        max=60,
        show_default="16",
        help="Of interpolate: images from each label to the next.",
        rich_help_panel=OUTPUT,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        show_default="progress.gif, denoise.gif, interpolate.gif in the run; ./compare.gif",
        help="Where the GIF goes.",
        rich_help_panel=OUTPUT,
    ),
]


def run(
    what: What = None,
    which: WhichRuns = None,
    kind: Kind = None,
    model: Model = None,
    no_ema: RawWeights = False,
    labels: Labels = None,
    steps: SampleSteps = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    seed: Seed = "0",
    frames: Frames = None,
    out: Out = None,
    force: Force = False,
    runs_dir: RunsDir = None,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a GIF of training (the picture people share), of denoising, or of the way from one image to the next."""
    from ..errors import UsageError
    from ..io import paths
    from ..io.paths import expanded
    from . import parsing

    kind, runs = _understand(what, which or [], kind, model)
    word = runs[0] if runs else None
    if out:
        out = expanded(out)
        if out.suffix.lower() != ".gif" or out.is_dir():
            raise UsageError(f"--out: {out} is not the name of a GIF", "e.g. --out progress.gif")
        paths.check_file(out, force=force)
    parsing.device(device)
    flags = {"--steps": steps, "--guidance": guidance, "--sampler": sampler}
    if frames is not None and kind != "interpolate":
        raise UsageError("--frames is for interpolating", "say `ditkit make-gif interpolate`")
    if kind in ("train", "compare"):
        given = [flag for flag, value in {**flags, "--labels": labels}.items() if value is not None]
        if given:
            raise UsageError(f"{given[0]} is for drawing", "say `ditkit make-gif denoise`, or interpolate")
        path = _training(word, runs_dir, out, quiet=quiet) if kind == "train" else _comparing(runs, runs_dir, out)
    else:
        flags |= {"--seed": seed}
        drawing = Drawing(
            word=word,
            runs_dir=runs_dir,
            out=out,
            labels=labels,
            flags=flags,
            ema=not no_ema,
            device=device,
            quiet=quiet,
        )
        path = drawing.denoising() if kind == "denoise" else drawing.interpolating(frames or FRAMES)
    if not quiet:
        console.data(str(path))


def _understand(what: str | None, which: list[str], kind: str | None, model: str | None) -> tuple[str, list[str]]:
    """(kind, runs): the first word is a kind, or a run when --kind or nothing says the kind."""
    from ..errors import UsageError, unknown

    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    named = [word for word in (what, *which, model) if word is not None]
    if kind is None and what in KINDS:
        kind, named = what, named[1:]
    elif kind is not None and what == kind and len(named) > 1:
        named = named[1:]
    if kind == "compare":
        if len(set(named)) < 2:
            raise UsageError("comparing takes two runs or more", "e.g. `ditkit make-gif compare mnist mnist-2`")
    elif len(named) > 1:
        raise UsageError(
            f"{' and '.join(named)} are two runs, or {named[0]!r} is meant as a kind",
            f"known kinds: {', '.join(KINDS)}",
        )
    return kind or "train", list(dict.fromkeys(named))
