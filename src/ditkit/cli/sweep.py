"""`ditkit sweep`: the same images with every combination of settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from . import complete, console
from .evaluate import WHICH, RealImages
from .opt import examples, only, opt
from .options import AS_TRAINED, DrawingDevice, Model, Output, SampleSettings
from .outputs import output_folder, show_result

if TYPE_CHECKING:
    from ..evaluation.sweep import SweepRow
    from ..sampling.request import SampleRequest

Varied = Annotated[
    SampleSettings,
    only(
        "labels guidance steps sampler reuse seed",
        guidance=opt("--guidance SCALE,…", "Scales of classifier-free guidance, e.g. 1,1.5,2,4.", shown=AS_TRAINED),
        steps=opt("--steps N,…", "Sampling steps, e.g. 5,10,20.", shown=AS_TRAINED),
        sampler=opt(
            "--sampler NAME,…",
            "Samplers; `ditkit list samplers` names them.",
            complete=complete.samplers,
            shown=AS_TRAINED,
        ),
        reuse=opt(
            "--reuse N,…", "Go through the network's blocks in every N-th call only, e.g. 1,2,3.", shown=AS_TRAINED
        ),
    ),
]
Weights = Annotated[
    Model,
    only(
        "model ema no_ema autoencoder",
        model=WHICH,
        ema=opt(
            "--ema LENGTH,…",
            "Lengths of the moving average, e.g. 0.03,0.05,0.1, for runs trained with --snapshot-every.",
            shown="the one tracked in training",
        ),
    ),
]
FOLDER = opt("--out DIR", "Where sweep.png, sweep.md and sweep.json go.", shown="a new folder in sweeps/")


@dataclass(frozen=True, kw_only=True)
class Judging(RealImages):
    """Data."""

    samples: int | None = opt(
        "--samples N",
        "Judge each way by this many images, as `ditkit evaluate` does.",
        shown="none, only look",
        min=10,
        max=100_000,
    )


@examples(
    "ditkit sweep --guidance 1,1.5,2,4",
    "ditkit sweep mnist --sampler flow-euler,flow-dpmpp --steps 5,10,20",
    "ditkit sweep mnist --guidance 1,1.5,2 --steps 10,20 --samples 1000",
)
def run(
    settings: Varied,
    model: Weights,
    judging: Annotated[Judging, only("samples labels_as features data_dir")],
    output: Annotated[Output, only("out force yes json runs_dir quiet", out=FOLDER)],
    device: Annotated[DrawingDevice, only("device dtype kernels batch_size")],
) -> None:
    """Draw the same images in many ways, every combination of what is listed: which settings are best?

    Nothing is trained. The picture has a row for each way; the table has the time of an image, and with --samples
    the figures of `ditkit evaluate`. Ctrl-C keeps what is done.
    """
    from ..evaluation.report import check_features
    from ..evaluation.sweep import FILES, SHOWN, record, sweep, table, write
    from ..io import text
    from ..runs.target import data_place
    from .datasets import watching

    varied = _varied(settings, model.ema)
    request, count = _resolved(varied, settings, model, output, device)
    data_dir = None if judging.data_dir is None else data_place(judging.data_dir)
    if judging.samples:
        check_features(judging.features, request.info.config.data.channels)
    folder = output_folder(output, Path("sweeps") / request.name, list(FILES))
    shown, samples = request.labels[:SHOWN], judging.samples
    about = {"model": request.origin, "step": request.info.step, "seed": request.seed}
    about |= {"labels": shown, "samples": samples}
    each = text.plural(samples or len(shown), "image")
    console.say(f"{text.plural(count, 'way')} of drawing {each} each", quiet=output.quiet)
    rows: list[SweepRow] = []
    try:
        with watching(quiet=output.quiet, yes=output.yes):
            sweep(
                request.weights,
                varied,
                labels=shown,
                seed=request.seed,
                samples=samples,
                labels_as=judging.labels_as,
                features=judging.features,
                data_dir=data_dir,
                ema=not model.no_ema,
                autoencoder=model.autoencoder,
                batch_size=request.batch_size,
                device=device.device,
                dtype=device.dtype,
                kernels=device.kernels,
                progress=console.watch(quiet=output.quiet),
                on_row=rows.append,
            )
    except KeyboardInterrupt:
        done = f"{len(rows)} of {count} ways are in {folder}" if rows else "no way was done yet"
        console.say(f"stopped: {done}", quiet=output.quiet)
        raise
    finally:
        if rows:
            write(folder, rows, about, title=f"{request.name}, seed {request.seed}")
    picture = str(folder / FILES[0])
    show_result(output, {**record(rows, about), "picture": picture}, [*table(rows), text.flat(picture)])


def _varied(settings: SampleSettings, lengths: str | None) -> dict[str, list[str]]:
    """The values of each setting that was listed. Raises UsageError for an empty one."""
    from ..errors import UsageError

    names = ("sampler", "steps", "guidance", "reuse")
    lists = {name: getattr(settings, name) for name in names} | {"ema": lengths}
    varied = {name: [word.strip() for word in text.split(",")] for name, text in lists.items() if text is not None}
    for name, words in varied.items():
        if not all(words):
            raise UsageError(f"--{name}: there is an empty place in {lists[name]!r}", f"e.g. --{name} 1,2")
    return varied


def _resolved(
    varied: dict[str, list[str]], settings: SampleSettings, model: Model, output: Output, device: DrawingDevice
) -> tuple[SampleRequest, int]:
    """The model, its labels and seed, and how many combinations there are, all checked."""
    from ..evaluation.sweep import combinations
    from ..runs.remarks import check_varied_guidance
    from ..sampling.request import averaged
    from .datasets import watching
    from .sample_request import ema_length, resolve_request

    unvaried = SampleSettings(labels=settings.labels, seed=settings.seed)
    with watching(quiet=output.quiet, yes=output.yes):
        request = resolve_request(unvaried, replace(model, ema=None), device, output.runs)
        check_varied_guidance(request.info, varied.get("guidance", []))
        lengths = [ema_length(word, model) for word in varied.get("ema", [])]
        count = len(combinations(request.info.config, varied))
        for length in lengths:
            averaged(request.weights, length, console.watch(quiet=output.quiet))
    return request, count
