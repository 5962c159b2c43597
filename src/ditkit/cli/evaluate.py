"""`ditkit evaluate`: many images of a model against its real ones, as figures that say what they depend on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..io import text
from . import complete, console, parsing
from .opt import examples, only, opt
from .options import Data, DrawingDevice, Model, Output, SampleSettings
from .outputs import check_suffix, npz_path, show_result

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..evaluation.evaluate import Evaluation
    from ..runtime.distributed import ProcessGroup
    from ..sampling.request import SampleRequest


WHICH = opt(
    "[RUN|MODEL]",
    "A run by name or folder, a checkpoint folder, a .safetensors file, or user/name on the hub.",
    complete=complete.run_names,
    shown="the newest run",
)
FIGURES = opt(
    "--out FILE", "The file of JSON that the figures are appended to.", shown="evaluation.json in the run, else here"
)


DRAWN = "samples steps guidance guidance_interval guidance_rescale apg sampler reuse autoguide seed"


@dataclass(frozen=True, kw_only=True)
class ManySamples(SampleSettings):
    """Diffusion."""

    samples: int = opt("--samples N", "Images to draw.", default=10_000, min=10, max=1_000_000)


@dataclass(frozen=True, kw_only=True)
class RealImages(Data):
    """Data: what the drawn images are compared with, and how."""

    features: str | None = opt(
        "--features NAME|FILE",
        'Who looks at the images: lenet (in the package), inception (`pip install "ditkit\\[evaluate]"`), dinov2 '
        '(`pip install "ditkit\\[dinov2]"`), or a .onnx file of float32 (batch, channels, height, width) in [-1, 1].',
        shown="lenet for one channel, inception for three",
    )
    labels_as: str = opt(
        "--labels-as data|even",
        "Draw each label as often as the real images have it, or all equally often.",
        default="data",
        read=lambda word: parsing.choice("word for --labels-as:", word, ("data", "even")),
    )
    neighbours: int | None = opt(
        "--neighbours N",
        "Look for the training images nearest to the first N, pixel by pixel: has it learnt, or copied?",
        shown="none",
        min=1,
        max=1000,
    )


@examples(
    "ditkit evaluate",
    "ditkit evaluate mnist --samples 1000",
    "ditkit evaluate runs/faces --guidance 1.5 --steps 20 --neighbours 16",
)
def run(
    settings: Annotated[ManySamples, only(DRAWN)],
    real: Annotated[RealImages, only("labels_as features neighbours data_dir")],
    model: Annotated[Model, only("model ema no_ema autoencoder", model=WHICH)],
    output: Annotated[Output, only("out npz yes json runs_dir quiet", out=FIGURES)],
    device: Annotated[DrawingDevice, only("device dtype kernels batch_size")],
) -> None:
    """Judge a model: draw many images and measure how far they are from the images that it was trained on.

    Stopped at any moment, the same command goes on. The figures, and all that they depend on, go to evaluation.json.
    """
    from ..evaluation.real_images import with_data_at
    from ..evaluation.report import check_features, report_lines
    from ..runs.metrics import append_evaluation
    from ..runtime.distributed import join_launched
    from .datasets import watching
    from .sample_request import resolve_request

    def prepare() -> _Case:
        with watching(quiet=output.quiet, yes=output.yes):
            request = resolve_request(settings, model, device, output.runs)
        check_features(real.features, request.info.config.data.channels)
        return _Case(
            request=request,
            config=with_data_at(request.info.config, real.data_dir),
            samples=settings.samples,
            real=real,
            path=_path(output, request),
            npz=npz_path(output.npz, force=None),
        )

    with join_launched(device.device, console.watch(quiet=output.quiet)) as group:
        case = group.run_together(prepare)
        silent = output.quiet or not group.is_main
        evaluation = _judged(case, device.device, group, quiet=silent, yes=output.yes)
        record = {"model": case.request.origin, **evaluation.record}
        group.run_together(lambda: append_evaluation(case.path, record) if group.is_main else None)
        evaluation.forget()
    if group.is_main:
        files = {"figures": case.path, **({"neighbours": case.picture} if "neighbours" in record else {})}
        files |= {"images": case.npz} if case.npz else {}
        lines = [f"{name}: {text.flat(str(path))}" for name, path in files.items()]
        show_result(output, {**record, "file": str(case.path)}, [*report_lines(record, case.request.name), *lines])


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What is to be judged, all checked, before torch is loaded."""

    request: SampleRequest
    config: RunConfig  # with the data where it lies now
    samples: int
    real: RealImages
    path: Path  # of the figures
    npz: Path | None  # of the images

    @property
    def picture(self) -> Path:
        """Of the neighbours."""
        return self.path.with_name(f"{self.path.stem}-neighbours.png")


def _path(output: Output, request: SampleRequest) -> Path:
    """The file of the figures. Raises DitkitError for one that is no such file, or cannot be written to."""
    from ..io import paths
    from ..runs.folder import run_of
    from ..runs.metrics import read_evaluations

    if output.out is not None:
        path = check_suffix(output.out, "a .json file", "evaluation.json", force=True)
    else:
        run = run_of(request.weights)
        path = run.evaluation_file if run else Path("evaluation.json")
        paths.check_writable(path.parent)
    read_evaluations(path)  # another file of that name is not written over
    return path


def _judged(case: _Case, device: str, group: ProcessGroup, *, quiet: bool, yes: bool) -> Evaluation:
    from ..evaluation.judged import judge_request
    from ..evaluation.real_images import open_real_images
    from ..evaluation.report import DEFAULT_SAMPLES
    from .datasets import watching

    with watching(quiet=quiet, yes=yes):
        images = open_real_images(case.config.data, named=case.real.data_dir is not None)
    if case.samples < DEFAULT_SAMPLES:
        console.say(
            f"warning: distances of {case.samples:,} images are larger than those of {DEFAULT_SAMPLES:,}: "
            "compare them with those of equally many only",
            quiet=quiet,
        )

    def show_time(seconds: float) -> None:
        console.say(f"drawing {case.samples:,} images: about {text.format_duration(seconds)}", quiet=quiet)

    try:
        return judge_request(
            case.request,
            images,
            case.config,
            samples=case.samples,
            features=case.real.features,
            labels_as=case.real.labels_as,
            neighbours=case.real.neighbours,
            picture=case.picture,
            npz=case.npz,
            device=device,
            group=group,
            on_estimate=show_time,
            progress=console.watch(quiet=quiet),
        )
    except KeyboardInterrupt:
        console.say("stopped: the same command goes on where this one was", quiet=quiet)
        raise
