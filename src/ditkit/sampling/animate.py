"""Animate(): GIFs of training, of denoising, and of the way from one image to the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import SampleConfig
from ..errors import DataError, UsageError, unknown
from ..io import paths
from ..io.progress import LOADING_TORCH, Watch, no_progress
from ..io.reading import open_picture
from ..runs.folder import RunFolder, run_of, runs_dir
from ..runs.lookup import find_run, find_weights
from ..runs.model_info import read_model_info, resolve_labels

if TYPE_CHECKING:
    from PIL import Image

    from ..checkpoint.loading import Trained

KINDS = ("train", "denoise", "interpolate", "compare")
MOST_IMAGES = 100  # of denoising
MOST_STOPS = 20  # images to interpolate between
FRAMES = 16  # from one image to the next
_FRAME_SECONDS = 0.08


def animate(
    source: str | Path | Sequence[str | Path] | None = None,
    path: str | Path | None = None,
    *,
    kind: str = "train",
    labels: Sequence[str | int] | None = None,
    settings: SampleConfig | None = None,
    seed: int = 0,
    frames: int = FRAMES,
    ema: bool = True,
    autoencoder: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    kernels: str = "auto",
    progress: Watch = no_progress,
) -> Path:
    """Write a GIF and return its path.

    Args:
        source: what `kind` shows: the run for train (the newest if None), several runs for compare, by name or folder;
            for the others a model as `load` takes it.
        path: the GIF; in the run if None, or here where no one run is shown.
        kind: train (the sample grids over training), compare (the grids of several runs in a row), denoise (images on
            their way from noise), or interpolate (from one image to the next, through noise and labels).
        labels: of the images to draw: at most 100 to denoise (the model's first 10 if None), and at most 20 to
            interpolate between (the first 4 if None).
        settings: how they are drawn; the model's if None.
        seed: image i is drawn from seed `seed + i`.
        frames: of interpolate, from each image to the next.
        ema, autoencoder, dtype, kernels: as in `load`.
        progress: shown how far the drawing is.

    Raises:
        UsageError: for what is not there, too many images, and the sampler ddpm, which cannot interpolate.
        DataError, CheckpointError: for a run without sample grids, and for a model that is damaged.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    sources = [source] if source is None or isinstance(source, (str, Path)) else list(source)
    words = [None if word is None else str(word) for word in sources]
    if kind in ("train", "compare"):
        return _training([find_run(word, runs_dir()) for word in words], Path(path) if path else None, progress)
    if len(words) > 1:
        raise UsageError(f"{kind} draws with one model", "name one, or compare runs")
    weights = find_weights(words[0], runs_dir(), ema=ema)
    info = read_model_info(weights)
    settings = settings or info.config.sample
    wanted = _labels_drawn(kind, labels, info.labels)
    if kind == "interpolate" and settings.sampler == "ddpm":
        raise UsageError("ddpm adds noise at every step, so neighbours do not look alike", "use --sampler ddim")
    place = _place(Path(path) if path else None, kind, weights)
    with progress(LOADING_TORCH):
        from ..checkpoint.loading import load
        from ..runtime.device import find_device
    trained = load(weights, device=find_device(device), autoencoder=autoencoder, dtype=dtype, kernels=kernels)
    if kind == "denoise":
        _denoise(trained, wanted, settings, seed, place, progress)
    else:
        _interpolate(trained, wanted, settings, seed, frames, place, progress)
    return place


def _place(path: Path | None, kind: str, weights: Path) -> Path:
    """The GIF: in the run of the weights if no other is named, or here. Raises MachineError if it cannot be written."""
    inside = weights.parent.parent.parent / f"{kind}.gif"  # as it was typed, not resolved
    path = path or (inside if run_of(weights) else paths.claim_free(Path(kind), ".gif"))
    paths.check_writable(path.parent)
    return path


def _labels_drawn(kind: str, labels: Sequence[str | int] | None, known: Sequence[str]) -> list[str]:
    """The label of each image. Raises UsageError for more than a GIF can show, and for one that is unknown."""
    count = 10 if kind == "denoise" else 4
    wanted = [label or "any" for label in resolve_labels(known, labels or known[:count] or count)]
    if kind == "denoise" and len(wanted) > MOST_IMAGES:
        raise UsageError(f"--labels asks for more than {MOST_IMAGES} images, too many for a GIF", "ask for fewer")
    if kind == "interpolate" and len(wanted) > MOST_STOPS:
        raise UsageError(f"{len(wanted)} images are more than {MOST_STOPS}, too many for a GIF", "ask for fewer")
    return wanted * 2 if kind == "interpolate" and len(wanted) == 1 else wanted  # two images of one label


def _training(runs: Sequence[RunFolder], path: Path | None, progress: Watch) -> Path:
    """The grids of one run, or of several in a row: at each step the newest that a run has."""
    grids = [run.sample_grids() for run in runs]
    for run, drawn in zip(runs, grids, strict=True):
        if not drawn:
            longer = " longer" if len(runs) == 1 else ""
            hint = f"train it{longer}, or lower --set train.sample_every"
            raise DataError(f"{run.path} has no sample grids yet", hint)
    path = path or (runs[0].path / "progress.gif" if len(runs) == 1 else paths.claim_free(Path("compare"), ".gif"))
    paths.check_writable(path.parent)
    with progress("drawing …"):
        from ..visual.gif import MOST_FRAMES, thinned, training_gif
        from ..visual.grid import in_a_row

        first = max(drawn[0][0] for drawn in grids)  # every run has a grid from here on
        steps = sorted({step for drawn in grids for step, _ in drawn if step >= first})
        names = [run.path.resolve().name for run in runs]
        frames: list[tuple[str, Image.Image]] = []
        for index in thinned(len(steps), MOST_FRAMES):
            step = steps[index]
            newest = [[grid for grid in drawn if grid[0] <= step][-1] for drawn in grids]
            pictures = [open_picture(file) for _, file in newest]
            titles = [
                name if at == step else f"{name}, step {at:,}" for name, (at, _) in zip(names, newest, strict=True)
            ]
            frames.append((f"step {step:,}", in_a_row(pictures, titles) if len(runs) > 1 else pictures[0]))
        training_gif(frames, path)
    return path


def _denoise(
    trained: Trained, labels: list[str], settings: SampleConfig, seed: int, path: Path, progress: Watch
) -> None:
    """Images on their way from noise."""
    from ..data.pixels import to_uint8
    from ..visual.gif import MOST_FRAMES, denoising_gif, thinned
    from ..visual.grid import columns, grid
    from .generate import sample

    count, across, captions = len(labels), columns(labels), labels if trained.info.labels else None
    frames: list[tuple[str, Image.Image]] = []
    calls = 0
    with progress("drawing") as show:

        def keep(step: int, steps: int, _clean_BCHW: Any, noisy_BCHW: Any) -> None:
            nonlocal calls
            calls = steps
            show((step + 1) / steps * count, count)
            if step in thinned(steps, MOST_FRAMES - 1):  # ten thousand pictures would not fit into memory
                images = to_uint8(trained.codec.to_images(noisy_BCHW))
                frames.append((f"step {step} of {steps}", grid(images, across, captions=captions)))

        images = sample(trained, labels, settings=settings, seed=seed, batch_size=count, on_step=keep)
    final = grid([image.image for image in images], across, captions=captions)
    denoising_gif([*frames, (f"step {calls} of {calls}", final)], path)


def _interpolate(
    trained: Trained, labels: list[str], settings: SampleConfig, seed: int, frames: int, path: Path, progress: Watch
) -> None:
    """The way from each image to the next, and back to the first."""
    from ..visual.gif import MOST_FRAMES, write_gif
    from ..visual.grid import grid
    from .interpolate import interpolate

    each = min(frames, MOST_FRAMES // len(labels))
    with progress("drawing") as show:
        way = interpolate(
            trained,
            labels,
            frames=each,
            seed=seed,
            settings=settings,
            on_step=lambda step, steps, *_: show(step + 1, steps),
        )
    pictures = [
        (frame.start if frame.start == frame.end or not frame.part else f"{frame.start} to {frame.end}", frame.image)
        for frame in way
    ]
    seconds = len(way) * _FRAME_SECONDS
    write_gif([(name or "", grid([image], 1)) for name, image in pictures], path, seconds=seconds, hold=0)
