"""The GIFs for which a model draws: from noise to images, and from one image to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    from PIL import Image

    from .order import Order

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
        from ..errors import UsageError
        from .order import columns, draw

        order = self._order()
        if self.labels and len(order.labels) > MOST_IMAGES:
            raise UsageError(f"--labels asks for more than {MOST_IMAGES} images, too many for a GIF", "ask for fewer")
        wanted = order.labels[:MOST_IMAGES] if self.labels else order.labels[:10]
        order = replace(order, labels=wanted, batch_size=len(wanted))
        path = self._path(order, "denoise")
        across, captions = columns(wanted), wanted if order.card.labels else None
        frames: list[tuple[str, Image.Image]] = []
        calls = 0

        def keep(step: int, steps: int, x_BCHW: Any) -> None:
            from ..gifs import MOST_FRAMES, thinned
            from ..images import grid, to_uint8

            nonlocal calls
            calls = steps
            if step not in thinned(steps, MOST_FRAMES - 1):  # ten thousand pictures would not fit into memory
                return
            picture = grid(to_uint8(x_BCHW), across, captions=captions)
            frames.append((f"step {step} of {steps}", picture))

        final = list(draw(order, self.device, quiet=self.quiet, on_noisy=keep))
        from ..gifs import denoising_gif
        from ..images import grid

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
            from ..checkpoint import load
            from ..device import find_device
            from ..gifs import MOST_FRAMES, write_gif
            from ..images import grid
            from ..interpolation import interpolate
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

    def _order(self) -> Order:
        from .order import read_order
        from .targets import watching

        with watching(quiet=self.quiet):
            return read_order(self.labels, self.flags, model=self.word, runs_dir=self.runs_dir, ema=self.ema)

    def _path(self, order: Order, name: str) -> Path:
        from ..run_folder import run_of
        from . import words

        inside = order.weights.parent.parent.parent / f"{name}.gif"  # as it was typed, not resolved
        path = self.out or (inside if run_of(order.weights) else words.free_name(Path(name), ".gif"))
        words.check_writable(path.parent)
        return path
