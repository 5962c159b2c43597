"""Images in a grid with captions, PNG files with text chunks, and images on a terminal in half blocks."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import groupby, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from ..errors import DataError
from ..io.atomic import write_file
from ..io.text import flat

if TYPE_CHECKING:
    from rich.text import Text


BACKGROUND = (255, 255, 255)
INK = (40, 40, 40)  # pure greys: a GIF of grey images keeps all 256 of them
FAINT_INK = (150, 150, 150)
LARGEST_SIDE = 2000  # pixels; larger pictures are shrunk
_PLEASANT_CELL = 64  # pixels; smaller images are enlarged
_NARROWEST_CAPTION = 20  # pixels; under narrower images nothing could be read
_WIDEST_ROW_NAME = 180  # pixels

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def check_pictures(labels: Sequence[str]) -> None:
    """Draw an empty grid of a few labels: what pictures need is there. Raises what a broken Pillow raises."""
    names = list(labels[:12]) or [""]
    part = grid([np.zeros((64, 64, 1), np.uint8)] * len(names), 1, captions=names, row_names=names, title="title")
    side_by_side(part, part).save(io.BytesIO(), "PNG")


def columns(labels: list[str]) -> int:
    """How many columns a grid of images of these labels has.

    A row per label where as many images (2 to 16) were drawn of each; one row for up to 10; else about square.
    """
    kinds = list(dict.fromkeys(labels))
    each = len(labels) // len(kinds)
    if len(kinds) > 1 and 1 < each <= 16 and labels == [kind for kind in kinds for _ in range(each)]:
        return each
    return len(labels) if len(labels) <= 10 else min(20, math.ceil(len(labels) ** 0.5))


def to_picture(image: Image.Image | np.ndarray) -> Image.Image:
    """A uint8 array (height, width[, 1 or 3]) or a picture of any mode, as an RGB picture on the light background."""
    image = _from_array(image) if isinstance(image, np.ndarray) else image
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert("RGB")


@cache
def font(size: int, *, bold: bool = False) -> Font:
    """The DejaVu Sans that comes with matplotlib (Latin, Greek, Cyrillic …), else Pillow's built-in font."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    with contextlib.suppress(OSError, ImportError, ValueError):
        spec = find_spec("matplotlib")  # finds the folder without the cost of importing matplotlib
        for folder in (spec.submodule_search_locations or []) if spec else []:
            return ImageFont.truetype(str(Path(folder, "mpl-data", "fonts", "ttf", name)), size)
    return ImageFont.load_default(size)


def text_width(text: str, face: Font) -> int:
    """Pixels from the first letter's left to the last one's right."""
    return int(np.ceil(face.getlength(text)))


def shortened(text: str, face: Font, width: int) -> str:
    """The text on one line, ended by an ellipsis where it is wider than `width` pixels; '' if nothing fits."""
    text = _on_one_line(text)
    if text_width(text, face) <= width:
        return text
    low, high = 0, len(text)
    while low < high:  # the most letters that fit beside the ellipsis
        middle = (low + high + 1) // 2
        fits = text_width(text[:middle].rstrip() + "…", face) <= width
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low].rstrip() + "…" if low or text_width("…", face) <= width else ""


def _on_one_line(text: str) -> str:
    """Text without what no font draws: line breaks, control characters, and what `_printable` replaces."""
    return flat(" ".join(_printable(text).split()))


def _printable(text: str) -> str:
    """Text without lone surrogates (of undecodable file names), which no font and no file format accepts."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def grid(
    images: Sequence[np.ndarray],
    columns: int,
    *,
    captions: Sequence[str] | None = None,
    row_names: Sequence[str] | None = None,
    title: str | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Images in rows of `columns`, with a caption under each, a name before each row and a title above.

    Small images are enlarged by a whole number (`scale`; None chooses one) so that pixels stay square and sharp; the
    picture is at most 2000 pixels high and wide. Images are uint8 (H, W, 1 or 3), of any sizes. Raises DataError when
    there are no images.
    """
    pictures = [to_picture(image) for image in images]
    if not pictures:
        raise DataError("there are no images to put in a grid")
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    width, height = (max(sides) for sides in zip(*(picture.size for picture in pictures), strict=True))
    cell_width, cell_height = _cell_size(width, height, columns, rows, scale)

    letter = int(np.clip(min(cell_width // 6, cell_height // 4), 11, 18))
    face, heading = font(letter), font(letter + 3, bold=True)
    gap = max(2, min(8, round(cell_width * 0.06)))
    margin = 2 * gap + 4
    captions = captions if cell_width >= _NARROWEST_CAPTION else None
    lines = [_in_lines(caption, face, cell_width) for caption in captions or []]
    caption_height = max(map(len, lines), default=0) * (letter + 3) + 3 if captions is not None else 0
    names = [shortened(name, face, _WIDEST_ROW_NAME) for name in row_names or []]
    left = margin + (max(text_width(name, face) for name in names) + gap + 4 if any(names) else 0)
    top = margin + (letter + 3 + gap + 4 if title else 0)
    step_x, step_y = cell_width + gap, cell_height + caption_height + gap

    canvas = Image.new("RGB", (left + columns * step_x - gap + margin, top + rows * step_y - gap + margin), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    if title:
        pen.text((margin, margin), shortened(title, heading, canvas.width - 2 * margin), INK, heading)
    for row, name in enumerate(names[:rows]):
        middle = top + row * step_y + cell_height // 2
        pen.text((left - gap - 4, middle), name, INK, face, anchor="rm")
    for index, picture in enumerate(pictures):
        x, y = left + index % columns * step_x, top + index // columns * step_y
        enlarged = _resized(picture, cell_width / width, cell_height / height)
        canvas.paste(enlarged, (x + (cell_width - enlarged.width) // 2, y + (cell_height - enlarged.height) // 2))
        for number, line in enumerate(lines[index] if index < len(lines) else ()):
            below = y + cell_height + 3 + number * (letter + 3)
            pen.text((x + cell_width // 2, below), line, INK, face, anchor="mt")
    return shrunk(canvas, LARGEST_SIDE)


def _in_lines(caption: str, face: Font, width: int) -> list[str]:
    """A caption in one line of `width` pixels, or in two if it has a `+` or a space to break at."""
    whole = _on_one_line(caption)
    breaks = [index + 1 for index, letter in enumerate(whole) if letter in "+ "]
    fitting = [end for end in breaks if end < len(whole) and text_width(whole[:end].rstrip(), face) <= width]
    if text_width(whole, face) <= width or not fitting:
        return [shortened(caption, face, width)]
    return [whole[: fitting[-1]].rstrip(), shortened(whole[fitting[-1] :], face, width)]


def side_by_side(left: Image.Image, right: Image.Image, names: tuple[str, str] = ("raw", "EMA")) -> Image.Image:
    """Two pictures under their headings, such as the grids of the raw and of the EMA weights."""
    return in_a_row([left, right], names)


def in_a_row(pictures: Sequence[Image.Image], names: Sequence[str]) -> Image.Image:
    """Pictures under their headings, with lines between them."""
    face = font(17, bold=True)
    parts = [to_picture(picture) for picture in pictures]
    margin, heading = 12, 30
    height = max(part.height for part in parts) + heading
    canvas = Image.new("RGB", (sum(part.width + margin for part in parts) - margin, height), BACKGROUND)
    pen, x = ImageDraw.Draw(canvas), 0
    for part, name in zip(parts, names, strict=True):
        if x:
            line = x - margin // 2
            pen.line((line, margin, line, canvas.height - margin), (220, 220, 220))
        centre = x + part.width // 2
        pen.text((centre, margin), shortened(name, face, part.width), INK, face, anchor="mt")
        canvas.paste(part, (x, heading))
        x += part.width + margin
    return shrunk(canvas, LARGEST_SIDE)


def shrunk(picture: Image.Image, largest: int) -> Image.Image:
    """The picture with no side above `largest` pixels."""
    ratio = largest / max(picture.size)
    if ratio >= 1:
        return picture
    width, height = (max(1, int(side * ratio)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _cell_size(width: int, height: int, columns: int, rows: int, scale: int | None) -> tuple[int, int]:
    """The largest image's size in the grid: `scale` times, or else the smallest whole factor that makes 64 pixels.

    It is shrunk where the images alone would overflow the page, so that text is drawn at its full size.
    """
    if scale is None:
        wanted = -(-_PLEASANT_CELL // max(width, height))
        room = 0.8 * LARGEST_SIDE  # what margins, names and captions leave
        scale = max(1, min(wanted, int(room / (columns * width)), int(room / (rows * height))))
    width, height = width * scale, height * scale
    ratio = min(1.0, 0.9 * LARGEST_SIDE / (columns * width), 0.9 * LARGEST_SIDE / (rows * height))
    return max(1, int(width * ratio)), max(1, int(height * ratio))


def _resized(picture: Image.Image, ratio_x: float, ratio_y: float) -> Image.Image:
    size = max(1, round(picture.width * ratio_x)), max(1, round(picture.height * ratio_y))
    return picture.resize(size, Image.Resampling.NEAREST if ratio_x >= 1 else Image.Resampling.LANCZOS)


def save_png(image: Image.Image | np.ndarray, path: Path, text: Mapping[str, str] | None = None) -> None:
    """Write a PNG whole or not at all, with `text` in its text chunks. Raises MachineError for the disk."""
    info = PngInfo()
    for key, value in (text or {}).items():
        keyword = str(key).encode("latin-1", "replace").decode("latin-1").strip()[:79]
        info.add_text(keyword or "text", _printable(value).replace("\0", " "))
    picture = image if isinstance(image, Image.Image) else _from_array(image)
    data = io.BytesIO()
    picture.save(data, "PNG", pnginfo=info)
    write_file(path, data.getvalue())


def _from_array(image: np.ndarray) -> Image.Image:
    """A uint8 array as a picture with as many channels as it has."""
    return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image)


def half_blocks(image: Image.Image | np.ndarray, columns: int) -> Text:
    """The image for a terminal of `columns` characters: every '▀' shows two pixels, one above the other."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    picture = to_picture(image)
    columns = max(1, columns)
    ratio: float = columns // picture.width or columns / picture.width  # enlarged by whole numbers only
    pixels: list[list[list[int]]] = np.asarray(_resized(picture, ratio, ratio)).tolist()
    lines = [Text(no_wrap=True) for _ in range(0, len(pixels), 2)]
    for line, upper, lower in zip_longest(lines, pixels[::2], pixels[1::2]):
        pairs = zip_longest(upper or [], lower or [])
        for (above, below), same in groupby(pairs):
            ground = Color.from_rgb(*below) if below else None  # an odd last row lies on the terminal's own colour
            line.append("▀" * len(list(same)), Style(color=Color.from_rgb(*above), bgcolor=ground))
    return Text("\n", no_wrap=True, end="").join(lines)
