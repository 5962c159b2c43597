"""Ditkit sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..evaluation.sweep import Sweep, SweepPlan, _draw, _variants
from ..io import text
from . import complete, console
from .annotated import (
    DATA,
    DIFFUSION,
    MODEL,
    OUTPUT,
    BatchSize,
    DataDir,
    Debug,
    Device,
    Features,
    Force,
    Json,
    Labels,
    Quiet,
    RawWeights,
    RunsDir,
    Seed,
    Which,
    Yes,
)

EXAMPLES = (
    "Examples:\n\nditkit sweep --guidance 1,1.5,2,4\n"
    "ditkit sweep mnist --sampler flow-euler,flow-dpmpp --steps 5,10,20\n"
    "ditkit sweep mnist --guidance 1,1.5,2 --steps 10,20 --samples 1000"
)


Guidances = Annotated[
    str | None,
    typer.Option(
        "--guidance",
        metavar="SCALE,…",
        show_default="as trained",
        help="Scales of classifier-free guidance, e.g. 1,1.5,2,4.",
        rich_help_panel=DIFFUSION,
    ),
]
StepCounts = Annotated[
    str | None,
    typer.Option(
        "--steps",
        metavar="N,…",
        show_default="as trained",
        help="Sampling steps, e.g. 5,10,20.",
        rich_help_panel=DIFFUSION,
    ),
]
Samplers = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        metavar="NAME,…",
        autocompletion=complete.samplers,
        show_default="as trained",
        help="Samplers; `ditkit list samplers` names them.",
        rich_help_panel=DIFFUSION,
    ),
]
Reuses = Annotated[
    str | None,
    typer.Option(
        "--reuse",
        metavar="N,…",
        show_default="as trained",
        help="Go through the network's blocks in every N-th call only, e.g. 1,2,3.",
        rich_help_panel=DIFFUSION,
    ),
]
EmaLengths = Annotated[
    str | None,
    typer.Option(
        "--ema",
        metavar="LENGTH,…",
        show_default="the one tracked in training",
        help="Lengths of the moving average, e.g. 0.03,0.05,0.1, for runs trained with --snapshot-every.",
        rich_help_panel=MODEL,
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        metavar="N",
        min=10,
        max=100_000,
        show_default="none, only look",
        help="Judge each way by this many images, as `ditkit evaluate` does.",
        rich_help_panel=DATA,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        show_default="a new folder in sweeps/",
        help="Where sweep.png, sweep.md and sweep.json go.",
        rich_help_panel=OUTPUT,
    ),
]


def run(
    which: Which = None,
    labels: Labels = None,
    guidance: Guidances = None,
    steps: StepCounts = None,
    sampler: Samplers = None,
    reuse: Reuses = None,
    ema: EmaLengths = None,
    seed: Seed = "0",
    samples: Samples = None,
    features: Features = None,
    no_ema: RawWeights = False,
    data_dir: DataDir = None,
    out: Out = None,
    force: Force = False,
    yes: Yes = False,
    as_json: Json = False,
    runs_dir: RunsDir = None,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw the same images in many ways, every combination of what is listed: which settings are best?

    Nothing is trained. The picture has a row for each way; the table has the time of an image, and with --samples
    the figures of `ditkit evaluate`. Ctrl-C keeps what is done.
    """
    from ..io import text
    from ..io.paths import expanded
    from . import parsing
    from .datasets import watching
    from .evaluate import check_features, moved
    from .outputs import check_folder

    lists = {"--sampler": sampler, "--steps": steps, "--guidance": guidance, "--reuse": reuse, "--ema": ema}
    with watching(quiet=quiet, yes=yes):
        ways = _variants(lists, labels, which, runs_dir, seed=seed, batch_size=batch_size, ema=not no_ema)
    ways = [moved(way, data_dir) for way in ways]
    first = ways[0]
    if samples:
        check_features(features, first.info.config.data.channels)
    parsing.device(device)
    folder = expanded(out) if out else text.free_name(Path("sweeps") / first.name)
    check_folder(folder, ["sweep.png", "sweep.md", "sweep.json"], force=force)
    plan = SweepPlan(order=first, ways=ways, samples=samples, features=features)
    drawn = Sweep(plan, folder)
    try:
        _draw(drawn, device, quiet=quiet, yes=yes)
    except KeyboardInterrupt:
        done = f"{len(drawn.rows)} of {len(plan.ways)} ways are in {folder}" if drawn.rows else "no way was done yet"
        console.say(f"stopped: {done}", quiet=quiet)
        raise
    finally:
        drawn.write()
    _tell(drawn, as_json=as_json, quiet=quiet)


def _tell(drawn: Sweep, *, as_json: bool, quiet: bool) -> None:
    picture = drawn.folder / "sweep.png"
    if as_json:
        console.data(json.dumps({**drawn.record(), "picture": str(picture)}))
    elif not quiet:
        for line in drawn.table():
            console.data(line)
        console.data(text.flat(str(picture)))
