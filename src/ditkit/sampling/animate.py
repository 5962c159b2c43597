"""Denoising, interpolation and training GIFs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli import console

if TYPE_CHECKING:
    from PIL import Image

    from ..cli.sample_request import SampleRequest


MOST_IMAGES = 100
MOST_STOPS = 20
FRAMES = 16  # from one image to the next
_FRAME_SECONDS = 0.08


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What the words ask for."""

    word: str | None
    runs_dir: Path | None
    out: Path | None
    labels: list[str] | None
    flags: dict[str, Any]
    ema: bool
    device: str
    quiet: bool

    def denoising(self) -> Path:
        """Images on their way from noise. Raises DitkitError for every mistake in the words."""
        from ..cli.sample_request import draw
        from ..errors import UsageError
        from ..visual.grid import columns

        order = self._order()
        if self.labels and len(order.labels) > MOST_IMAGES:
            raise UsageError(f"--labels asks for more than {MOST_IMAGES} images, too many for a GIF", "ask for fewer")
        wanted = order.labels[:MOST_IMAGES] if self.labels else order.labels[:10]
        order = replace(order, labels=wanted, batch_size=len(wanted))
        path = self._path(order, "denoise")
        across, captions = columns(wanted), wanted if order.info.labels else None
        frames: list[tuple[str, Image.Image]] = []
        calls = 0

        def keep(step: int, steps: int, x_BCHW: Any) -> None:
            from ..data.pixels import to_uint8
            from ..visual.gif import MOST_FRAMES, thinned
            from ..visual.grid import grid

            nonlocal calls
            calls = steps
            if step not in thinned(steps, MOST_FRAMES - 1):  # ten thousand pictures would not fit into memory
                return
            picture = grid(to_uint8(x_BCHW), across, captions=captions)
            frames.append((f"step {step} of {steps}", picture))

        final = list(draw(order, self.device, quiet=self.quiet, on_noisy=keep))
        from ..visual.gif import denoising_gif
        from ..visual.grid import grid

        frames.append((f"step {calls} of {calls}", grid([one.image for one in final], across, captions=captions)))
        denoising_gif(frames, path)
        return path

    def interpolating(self, frames: int) -> Path:
        """The way from each image to the next, and back to the first. Raises DitkitError for mistakes in the words."""
        from ..errors import UsageError

        order = self._order()
        stops = order.labels if self.labels else order.labels[:4]
        stops = stops * 2 if len(stops) == 1 else stops  # two images of one label
        if len(stops) > MOST_STOPS:
            raise UsageError(f"{len(stops)} images are more than {MOST_STOPS}, too many for a GIF", "ask for fewer")
        if order.settings.sampler == "ddpm":
            raise UsageError("ddpm adds noise at every step, so neighbours do not look alike", "use --sampler ddim")
        path = self._path(order, "interpolate")
        with console.loading_torch(quiet=self.quiet):
            from ..checkpoint.loading import load
            from ..runtime.device import find_device
            from ..visual.gif import MOST_FRAMES, write_gif
            from ..visual.grid import grid
            from .interpolate import interpolate
        trained = load(order.weights, device=find_device(self.device))
        each = min(frames, MOST_FRAMES // len(stops))
        with console.bar("drawing", quiet=self.quiet) as show:
            way = interpolate(
                trained,
                stops,
                frames=each,
                seed=order.seed,
                settings=order.settings,
                on_step=lambda step, steps, *_: show(step + 1, steps),
            )
        pictures = [
            (one.start if one.start == one.end or not one.part else f"{one.start} to {one.end}", grid([one.image], 1))
            for one in way
        ]
        write_gif([(name or "", one) for name, one in pictures], path, seconds=len(way) * _FRAME_SECONDS, hold=0)
        return path

    def _order(self) -> SampleRequest:
        from ..cli.datasets import watching
        from ..cli.sample_request import request_from_flags

        with watching(quiet=self.quiet):
            return request_from_flags(self.labels, self.flags, model=self.word, runs_dir=self.runs_dir, ema=self.ema)

    def _path(self, order: SampleRequest, name: str) -> Path:
        from ..io import paths, text
        from ..runs.folder import run_of

        inside = order.weights.parent.parent.parent / f"{name}.gif"  # as it was typed, not resolved
        path = self.out or (inside if run_of(order.weights) else text.free_name(Path(name), ".gif"))
        paths.check_writable(path.parent)
        return path


def _training(word: str | None, runs_dir: Path | None, out: Path | None, *, quiet: bool) -> Path:
    from ..errors import DataError, UsageError, unknown
    from ..runs.folder import runs_dir as runs_place
    from ..runs.lookup import find_run, run_names

    runs = runs_place(runs_dir)
    try:
        folder = find_run(word, runs)
    except UsageError:
        if word is None:
            raise
        from ..cli.make_gif import KINDS

        raise unknown("run", str(word), (*KINDS, *run_names(runs))) from None
    grids = folder.sample_grids()
    if not grids:
        raise DataError(f"{folder.path} has no sample grids yet", "train it longer, or lower --set train.sample_every")
    path = out or folder.path / "progress.gif"
    with console.spinner("drawing …", quiet=quiet):
        from ..visual.gif import MOST_FRAMES, thinned, training_gif

        frames: list[tuple[str, Image.Image]] = []
        for index in thinned(len(grids), MOST_FRAMES):
            step, file = grids[index]
            frames.append((f"step {step:,}", _opened(file)))
        training_gif(frames, path)
    return path


def _comparing(names: list[str], runs_dir: Path | None, out: Path | None) -> Path:
    """The grids of several runs in a row, at each step the newest that a run has."""
    from ..errors import DataError
    from ..io import paths, text
    from ..runs.folder import runs_dir as runs_place
    from ..runs.lookup import find_run

    folders = [find_run(name, runs_place(runs_dir)) for name in names]
    grids = [folder.sample_grids() for folder in folders]
    for folder, found in zip(folders, grids, strict=True):
        if not found:
            raise DataError(f"{folder.path} has no sample grids yet", "train it, or lower --set train.sample_every")
    path = out or text.free_name(Path("compare"), ".gif")
    paths.check_writable(path.parent)

    from ..visual.gif import MOST_FRAMES, thinned, training_gif
    from ..visual.grid import in_a_row

    steps = sorted({step for found in grids for step, _ in found})
    steps = [step for step in steps if step >= max(found[0][0] for found in grids)]  # every run has one from here on
    names = [folder.path.resolve().name for folder in folders]
    frames: list[tuple[str, Image.Image]] = []
    for index in thinned(len(steps), MOST_FRAMES):
        newest = [[one for one in found if one[0] <= steps[index]][-1] for found in grids]
        titles = [
            name if step == steps[index] else f"{name}, step {step:,}"
            for name, (step, _) in zip(names, newest, strict=True)
        ]
        frames.append((f"step {steps[index]:,}", in_a_row([_opened(file) for _, file in newest], titles)))
    training_gif(frames, path)
    return path


def _opened(grid: Path) -> Image.Image:
    """A grid that a run has drawn. Raises DataError for one that is damaged."""
    from PIL import Image

    from ..errors import DataError

    try:
        with Image.open(grid) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError):
        raise DataError(f"{grid} is damaged", "delete it: the GIF is made of the others") from None
