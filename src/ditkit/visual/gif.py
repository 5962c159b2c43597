"""Animated GIFs: the sample grids of a run, or the denoising of one batch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..errors import DataError
from ..io.atomic import write_file
from .grid import BACKGROUND, FAINT_INK, INK, font, shortened, shrunk, to_picture

LARGEST_SIDE = 800  # pixels
MOST_FRAMES = 120
_PLEASANT_SIDE = 240  # pixels; smaller frames are enlarged by a whole number
_STRIP = 34  # pixels, for the caption and the line of progress
_COLOURS = 254  # of 256: one is the background, one marks pixels that a frame does not change
_GREYS = 64  # look the same as 256, and the file is a third smaller
_PALETTE_SIDE = 128  # pixels of each frame that choose the colours: all of them would take minutes
_SHORTEST_FRAME = 0.02  # seconds; browsers slow anything shorter down to 0.1
_LONGEST_FRAME = 1.0


def write_gif(
    frames: Sequence[tuple[str, Image.Image]], path: Path, *, seconds: float = 8.0, hold: float = 1.5
) -> None:
    """Write (caption, picture) frames as a GIF that loops; the last frame stays for `hold` more seconds.

    At most 120 frames are kept (always the first and the last) and no side is above 800 pixels. Raises DataError
    without frames, MachineError when the file cannot be written.
    """
    if not frames:
        raise DataError("there are no frames to make a GIF of", "let the run draw samples first")
    kept = [frames[index] for index in thinned(len(frames), MOST_FRAMES)]
    first, *others = _shared_palette(_captioned(kept))
    times = durations(len(kept), seconds, hold)
    data = io.BytesIO()
    first.save(data, "GIF", save_all=True, append_images=others, duration=times, loop=0, disposal=1, optimize=False)
    write_file(path, data.getvalue())


def training_gif(frames: Sequence[tuple[str, Image.Image]], path: Path, *, seconds: float = 8.0) -> None:
    """The sample grids of a run, oldest first; the last one stays for 2 more seconds."""
    write_gif(frames, path, seconds=seconds, hold=2.0)


def denoising_gif(frames: Sequence[tuple[str, Image.Image]], path: Path, *, seconds: float = 4.0) -> None:
    """From noise to images; the last frame stays for 1.5 more seconds."""
    write_gif(frames, path, seconds=seconds, hold=1.5)


def thinned(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spread, with the first and the last."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, most)).tolist()})


def durations(count: int, seconds: float, hold: float) -> list[int]:
    """Milliseconds for each frame, whole hundredths as GIF has them; they sum to `seconds` plus `hold`.

    A frame takes 0.02 to 1 second, so very few or very many frames change the sum.
    """
    each = min(max(seconds / count, _SHORTEST_FRAME), _LONGEST_FRAME)
    ends = [round(100 * each * (index + 1)) for index in range(count)]
    times = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]
    times[-1] += 10 * round(100 * hold)
    return times


def _captioned(frames: Sequence[tuple[str, Image.Image]]) -> list[Image.Image]:
    """Frames of one size: each picture centred over a strip with its caption and a line that grows to the end."""
    pictures = [to_picture(picture) for _, picture in frames]
    width, height = (max(sides) for sides in zip(*(picture.size for picture in pictures), strict=True))
    factor = max(1, _PLEASANT_SIDE // max(width, height))
    ratio = min(1.0, LARGEST_SIDE / (width * factor), (LARGEST_SIDE - _STRIP) / (height * factor))
    page = max(1, int(width * factor * ratio)), max(1, int(height * factor * ratio))
    face = font(15)
    drawn = []
    for index, ((caption, _), picture) in enumerate(zip(frames, pictures, strict=True)):
        if factor > 1:
            picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
        picture = shrunk(picture, max(1, int(max(picture.size) * ratio)))
        canvas = Image.new("RGB", (page[0], page[1] + _STRIP), BACKGROUND)
        canvas.paste(picture, ((page[0] - picture.width) // 2, (page[1] - picture.height) // 2))
        pen = ImageDraw.Draw(canvas)
        text = shortened(caption, face, page[0] - 16)
        pen.text((page[0] // 2, page[1] + _STRIP // 2 - 1), text, INK, face, anchor="mm")
        done = page[0] * (index + 1) // len(frames)
        pen.rectangle((0, canvas.height - 3, done - 1, canvas.height - 1), FAINT_INK)
        drawn.append(canvas)
    return drawn


def _shared_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """All frames in the same colours and without dithering, so that still parts do not flicker."""
    pixels = [np.asarray(frame) for frame in frames]
    if all((levels == levels[..., :1]).all() for levels in pixels):
        greys = [round(grey) for grey in np.linspace(0, 255, _GREYS).tolist() for _ in range(3)]
        nearest = np.rint(np.arange(256) * ((_GREYS - 1) / 255)).astype(np.uint8)
        return [_indexed(nearest[levels[..., 0]], greys) for levels in pixels]
    chosen = [frames[index] for index in thinned(len(frames), 16)]
    side = _PALETTE_SIDE
    mosaic = Image.new("RGB", (side, side * len(chosen)))
    for row, frame in enumerate(chosen):
        mosaic.paste(frame.resize((side, side), Image.Resampling.NEAREST), (0, row * side))
    palette = mosaic.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT)
    colours = [*(palette.getpalette() or [])[: 3 * _COLOURS]]
    colours += [0] * (3 * _COLOURS - len(colours)) + [*BACKGROUND]
    drawn = []
    for frame, levels in zip(frames, pixels, strict=True):
        indices = np.array(frame.quantize(palette=palette, dither=Image.Dither.NONE))
        indices[(levels == BACKGROUND).all(-1)] = _COLOURS  # Pillow's search for the nearest colour is a little off
        drawn.append(_indexed(indices, colours))
    return drawn


def _indexed(indices: np.ndarray, palette: list[int]) -> Image.Image:
    picture = Image.fromarray(indices)
    picture.putpalette(palette)
    return picture
