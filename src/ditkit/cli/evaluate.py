"""`ditkit evaluate`: many images of a model against its real ones, as figures that say what they depend on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..io import text
from . import complete, console
from .annotated import (
    DATA,
    DIFFUSION,
    OUTPUT,
    Autoguide,
    DataDir,
    Debug,
    Device,
    EmaLength,
    Guidance,
    Json,
    Quiet,
    RawWeights,
    RunsDir,
    Sampler,
    SampleSteps,
    Yes,
)
from .sample import BatchSize, Interval, Reuse, Seed

if TYPE_CHECKING:
    from ..evaluation.evaluate import Evaluation
    from ..evaluation.judge import Judge
    from ..evaluation.neighbours import Neighbours
    from ..runtime.distributed import ProcessGroup
    from .sample_request import SampleRequest


EXAMPLES = (
    "Examples:\n\nditkit evaluate\nditkit evaluate mnist --samples 1000\n"
    "ditkit evaluate runs/faces --guidance 1.5 --steps 20 --neighbours 16"
)
PACKAGES = {"inception": ("torch_fidelity", "evaluate"), "dinov2": ("transformers", "dinov2")}  # and the extra of each
WORDS = {  # metric: what it is called, how it is written, which way is better
    "frechet": ("{distance}", "{:.4g}", "0 is best"),
    "kid": ("KID ({features})", "{:.2g}", "0 is best"),
    "precision": ("precision", "{:.1%}", "drawn images that look real"),
    "recall": ("recall", "{:.1%}", "real images that are covered"),
    "accuracy": ("label accuracy", "{:.2%}", "images of the label that was asked for"),
    "inception_score": ("Inception Score", "{:.3g}", "more is better"),
    "memorised": ("memorised", "{:.1%}", "copies of training images"),
}

Which = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN|MODEL]",
        autocompletion=complete.run_names,
        show_default="the newest run",
        help="A run by name or folder, a checkpoint folder, a .safetensors file, or hf://user/name.",
    ),
]
Samples = Annotated[
    int,
    typer.Option("--samples", metavar="N", min=10, max=1_000_000, help="Images to draw.", rich_help_panel=DIFFUSION),
]
Features = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="NAME|FILE",
        show_default="lenet for one channel, inception for three",
        help="Who looks at the images: lenet (in the package), inception (`pip install 'ditkit\\[evaluate]'`), dinov2 "
        "(`pip install 'ditkit\\[dinov2]'`), or a .onnx file of float32 (batch, channels, height, width) in [-1, 1].",
        rich_help_panel=DATA,
    ),
]
NeighboursOf = Annotated[
    int | None,
    typer.Option(
        "--neighbours",
        metavar="N",
        min=1,
        max=1000,
        show_default="none",
        help="Look for the training images nearest to the first N, pixel by pixel: has it learnt, or copied?",
        rich_help_panel=DATA,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        show_default="evaluation.json in the run, else here",
        help="The file of JSON that the figures are appended to.",
        rich_help_panel=OUTPUT,
    ),
]


def run(
    which: Which = None,
    samples: Samples = 10_000,
    features: Features = None,
    neighbours: NeighboursOf = None,
    steps: SampleSteps = None,
    guidance: Guidance = None,
    guidance_interval: Interval = None,
    sampler: Sampler = None,
    reuse: Reuse = None,
    autoguide: Autoguide = None,
    seed: Seed = "0",
    ema: EmaLength = None,
    no_ema: RawWeights = False,
    data_dir: DataDir = None,
    out: Out = None,
    yes: Yes = False,
    as_json: Json = False,
    runs_dir: RunsDir = None,
    device: Device = "auto",
    batch_size: BatchSize = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Judge a model: draw many images and measure how far they are from the images that it was trained on.

    Stopped at any moment, the same command goes on. The figures, and all that they depend on, go to evaluation.json.
    """
    from .datasets import launched_together

    flags = {
        "--steps": steps,
        "--guidance": guidance,
        "--guidance-interval": guidance_interval,
        "--sampler": sampler,
        "--reuse": reuse,
        "--autoguide": autoguide,
        "--ema": ema,
        "--seed": seed,
        "--batch-size": batch_size,
    }

    def prepare() -> _Case:
        from . import parsing
        from .datasets import watching
        from .sample_request import resolve_request

        with watching(quiet=quiet, yes=yes):
            order = resolve_request(None, flags, model=which, runs_dir=runs_dir, ema=not no_ema)
        check_features(features, order.info.config.data.channels)
        parsing.device(device)
        return _Case(order=moved(order, data_dir), samples=samples, features=features, path=_place(out, order))

    with launched_together(device, quiet=quiet) as group:
        case = group.run_together(prepare)
        silent = quiet or not group.is_main
        found, near = _judged(case, device, neighbours, group, quiet=silent, yes=yes)
        group.run_together(lambda: _keep(found, near, case) if group.is_main else None)
    if group.is_main:
        _tell(found, case, near, as_json=as_json, quiet=quiet)


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What is to be judged, all checked, before torch is there."""

    order: SampleRequest
    samples: int
    features: str | None
    path: Path  # of the figures

    @property
    def picture(self) -> Path:
        """Of the neighbours."""
        return self.path.with_name(f"{self.path.stem}-neighbours.png")


def check_features(word: str | None, channels: int) -> None:
    """Raise UsageError for an extractor that is unknown, or whose package or file is missing, before torch loads."""
    from importlib.util import find_spec

    from ..errors import UsageError, unknown
    from ..io.paths import expanded

    name = word or ("lenet" if channels == 1 else "inception")
    if name in PACKAGES and find_spec(PACKAGES[name][0]) is None:
        package, extra = PACKAGES[name]
        hint = f"`pip install 'ditkit[{extra}]'`, or choose other features with --features"
        raise UsageError(f"the features {name} need the package {package.replace('_', '-')}", hint)
    if name == "lenet" or name in PACKAGES:
        return
    if Path(name).suffix != ".onnx":
        raise unknown("extractor", name, ["lenet", *PACKAGES, "FILE.onnx"])
    if not expanded(name).is_file():
        raise UsageError(f"--features: there is no file {name}", "check the path")


def moved(order: SampleRequest, data_dir: str | None) -> SampleRequest:
    """The order, with the data where it lies now."""
    from ..runs.target import data_place

    if data_dir is None:
        return order
    config = order.info.config
    data = replace(config.data, path=data_place(data_dir))
    return replace(order, info=replace(order.info, config=replace(config, data=data)))


def _place(out: Path | None, order: SampleRequest) -> Path:
    from ..errors import UsageError
    from ..io import paths
    from ..io.paths import expanded
    from ..runs.folder import run_of
    from ..runs.metrics import read_evaluations

    if out is not None:
        path = expanded(out)
        if path.suffix.lower() != ".json" or path.is_dir():
            raise UsageError(f"--out: {path} is not the name of a .json file", "e.g. --out evaluation.json")
    else:
        run = run_of(order.weights)
        path = run.evaluation_file if run else Path("evaluation.json")
    paths.check_writable(path.parent)
    read_evaluations(path)  # another file of that name is not written over
    return path


def _judged(
    case: _Case, device: str, neighbours: int | None, group: ProcessGroup, *, quiet: bool, yes: bool
) -> tuple[Evaluation, Neighbours | None]:
    from .datasets import open_images

    order, config = case.order, case.order.info.config
    images = open_images(config, quiet=quiet, yes=yes)
    with console.loading_torch(quiet=quiet):
        from ..checkpoint.loading import load
        from ..evaluation.evaluate import DEFAULT_SAMPLES, evaluate
        from ..evaluation.judge import open_judge
        from ..runtime.device import find_device
    place = find_device(device)
    trained = group.run_together(lambda: load(order.weights, device=place))
    guide = load(order.guide, device=place) if order.guide else None
    with console.bar("looking at real images", quiet=quiet) as show:
        judge: Judge = group.run_together(
            lambda: open_judge(config, features=case.features, device=place, dataset=images, on_image=show)
        )
    if case.samples < DEFAULT_SAMPLES:
        console.say(
            f"warning: distances of {case.samples:,} images are larger than those of {DEFAULT_SAMPLES:,}: "
            "compare them with those of equally many only",
            quiet=quiet,
        )

    def tell_time(seconds: float) -> None:
        from ..io.text import format_duration

        console.say(f"drawing {case.samples:,} images: about {format_duration(seconds)}", quiet=quiet)

    with _told_when_stopped(quiet=quiet), console.bar("drawing", quiet=quiet) as show:
        found = evaluate(
            trained,
            judge,
            samples=case.samples,
            seed=order.seed,
            settings=order.settings,
            guide=guide,
            batch_size=order.batch_size,
            on_image=show,
            on_estimate=tell_time,
            part=(group.rank, group.size),
            collect=group.all_gather,
        )
    near = _near(case, trained, guide, images, neighbours, quiet=quiet) if neighbours and group.is_main else None
    return found, near


@contextmanager
def _told_when_stopped(*, quiet: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        console.say("stopped: the same command goes on where this one was", quiet=quiet)
        raise


def _near(case: _Case, trained: Any, guide: Any, images: Any, count: int, *, quiet: bool) -> Neighbours:
    from ..evaluation.neighbours import nearest, neighbours_grid
    from ..sampling.generate import sample
    from ..visual.grid import save_png

    order = case.order
    drawn = sample(trained, count, settings=order.settings, seed=order.seed, guide=guide, batch_size=order.batch_size)
    with console.bar("comparing with real images", quiet=quiet) as show:
        near = nearest([one.image for one in drawn], images, show)
    save_png(neighbours_grid([one.image for one in drawn], near, images, order.name), case.picture, order.png_metadata)
    return near


def _keep(found: Evaluation, near: Neighbours | None, case: _Case) -> None:
    from ..io.atomic import write_atomically
    from ..runs.metrics import read_evaluations

    if near is not None:
        found.metrics["memorised"] = near.memorised
        found.about["neighbours"] = {"images": len(near.indices_NK), "picture": case.picture.name}
    records = [*read_evaluations(case.path), {"model": case.order.origin, **found.record}]
    write_atomically(case.path, json.dumps(records, indent=1) + "\n")


def _tell(found: Evaluation, case: _Case, near: Neighbours | None, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        console.data(json.dumps({"model": case.order.origin, **found.record, "file": str(case.path)}))
        return
    if quiet:
        return
    about, metrics = found.about, found.metrics
    names = {"distance": about["features"]["distance"], "features": about["features"]["name"]}
    shown = [
        (name.format(**names), form.format(metrics[key]), meaning, key)
        for key, (name, form, meaning) in WORDS.items()
        if key in metrics
    ]
    wide = max(len(name) for name, *_ in shown)
    drawn = about["drawn"]
    console.data(
        f"{drawn['samples']:,} images of {case.order.name} ({drawn['sampler']}, {drawn['steps']} steps, "
        f"guidance {drawn['guidance']:g}) against {about['reference']['images']:,} real ones"
    )
    for name, value, meaning, key in shown:
        error = f" ± {metrics['kid_error']:.2g}" if key == "kid" else ""
        console.data(f"{name:<{wide}}  {value + error:<18} {meaning}")
    console.data(f"figures: {text.flat(str(case.path))}")
    if near is not None:
        console.data(f"neighbours: {text.flat(str(case.picture))}")
