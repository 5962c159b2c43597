"""`ditkit sweep`: one model drawn in many ways, as one picture and one table."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import complete, console
from .evaluate import Features, Which
from .options import (
    DATA,
    DIFFUSION,
    MODEL,
    OUTPUT,
    DataDir,
    Debug,
    Device,
    Force,
    Json,
    Labels,
    Quiet,
    RawWeights,
    RunsDir,
    Yes,
)
from .sample import BatchSize, Seed
from .ways import LISTS, Plan, Sweep, setting

if TYPE_CHECKING:
    from ..checkpoint import Trained
    from ..evaluation.judge import Judge
    from .order import Order

EXAMPLES = (
    "Examples:\n\nditkit sweep --guidance 1,1.5,2,4\n"
    "ditkit sweep mnist --sampler flow-euler,flow-dpmpp --steps 5,10,20\n"
    "ditkit sweep mnist --guidance 1,1.5,2 --steps 10,20 --samples 1000"
)
MOST_WAYS = 100


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
    from ..paths import expanded
    from . import words
    from .evaluate import check_features, moved
    from .order import check_folder
    from .targets import watching

    lists = {"--sampler": sampler, "--steps": steps, "--guidance": guidance, "--reuse": reuse, "--ema": ema}
    with watching(quiet=quiet, yes=yes):
        ways = _ways(lists, labels, which, runs_dir, seed=seed, batch_size=batch_size, ema=not no_ema)
    ways = [moved(way, data_dir) for way in ways]
    first = ways[0]
    if samples:
        check_features(features, first.card.config.data.channels)
    words.device(device)
    folder = expanded(out) if out else words.free_name(Path("sweeps") / first.name)
    check_folder(folder, ["sweep.png", "sweep.md", "sweep.json"], force=force)
    plan = Plan(order=first, ways=ways, samples=samples, features=features)
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


def _ways(
    lists: dict[str, str | None],
    labels: list[str] | None,
    model: str | None,
    runs_dir: Path | None,
    *,
    seed: str,
    batch_size: str,
    ema: bool,
) -> list[Order]:
    from ..errors import UsageError
    from .order import read_order

    for flag, text in lists.items():
        if text is not None and not all(word.strip() for word in text.split(",")):
            raise UsageError(f"{flag}: there is an empty place in {text!r}", f"e.g. {flag} 1,2")
    values = [list(dict.fromkeys(word.strip() for word in (text or "").split(","))) for text in lists.values()]
    count = 1
    for one in values:
        count *= len(one)
    if count > MOST_WAYS:
        raise UsageError(f"that makes {count:,} ways to draw", f"list fewer: at most {MOST_WAYS}")
    found = []
    for chosen in itertools.product(*values):
        flags: dict[str, Any] = {flag: word or None for flag, word in zip(lists, chosen, strict=True)}
        flags |= {"--seed": seed, "--batch-size": batch_size}
        found.append(read_order(labels, flags, model=model, runs_dir=runs_dir, ema=ema))
    return found


def _draw(drawn: Sweep, device: str, *, quiet: bool, yes: bool) -> None:
    from .targets import open_images

    plan = drawn.plan
    images = open_images(plan.order.card.config, quiet=quiet, yes=yes) if plan.samples else None
    with console.loading_torch(quiet=quiet):
        from ..checkpoint import load
        from ..device import find_device
        from ..evaluation.judge import open_judge
        from ..sampling import sample
    place = find_device(device)
    judge = None
    if images is not None:
        with console.bar("looking at real images", quiet=quiet) as show:
            judge = open_judge(
                plan.order.card.config, features=plan.features, device=place, dataset=images, on_image=show
            )
    each = plan.samples or len(plan.shown)
    trained = {path: load(path, device=place) for path in dict.fromkeys(way.weights for way in plan.ways)}
    sample(trained[plan.order.weights], plan.shown[:1], steps=2)  # what happens once only is on nobody's clock
    ways = "1 way" if len(plan.ways) == 1 else f"{len(plan.ways)} ways"
    console.say(f"{ways} of drawing {each} images each", quiet=quiet)
    with console.bar("drawing", quiet=quiet) as show:
        for number, way in enumerate(plan.ways):
            _draw_one(drawn, trained[way.weights], judge, way)
            show(number + 1, len(plan.ways))


def _draw_one(drawn: Sweep, trained: Trained, judge: Judge | None, way: Order) -> None:
    from ..evaluation.evaluate import evaluate
    from ..sampling import sample

    plan, calls = drawn.plan, 0

    def count(_call: int, of: int, *_: Any) -> None:
        nonlocal calls
        calls = of

    started = time.perf_counter()
    shown = sample(
        trained,
        plan.shown,
        settings=way.settings,
        seed=plan.order.seed,
        batch_size=len(plan.shown),
        on_step=count,
    )
    row: dict[str, Any] = {name: setting(way, name) for name in LISTS.values()}
    row |= {"calls": calls, "seconds_an_image": (time.perf_counter() - started) / len(shown)}
    if judge is not None and plan.samples:
        found = evaluate(
            trained,
            judge,
            samples=plan.samples,
            seed=plan.order.seed,
            settings=way.settings,
            batch_size=plan.order.batch_size,
        )
        row["metrics"] = found.metrics
    drawn.images += [one.image for one in shown]
    drawn.rows.append(row)


def _tell(drawn: Sweep, *, as_json: bool, quiet: bool) -> None:
    picture = drawn.folder / "sweep.png"
    if as_json:
        console.data(json.dumps({**drawn.record(), "picture": str(picture)}))
    elif not quiet:
        for line in drawn.table():
            console.data(line)
        console.data(console.flat(str(picture)))
