"""A contact sheet of a data set: some images of each class as they are, and as the network sees them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from ..config import RunConfig
from ..data.survey import Survey, Thumbnail
from .grid import BACKGROUND, FAINT_INK, grid, save_png, to_picture

if TYPE_CHECKING:
    from ..latents.codec import Reconstruction

_FRAME = (230, 50, 50)
_PAGE = 1700  # pixels for the images themselves, of the 2000 that a grid may have
_CAPTION, _GAP = 20, 8
_SMALLEST_CELL = 64
_SMALLEST_PAIR, _PAIRS_IN_A_ROW, _MAX_PAIRS = 128, 4, 24


def save_sheet(survey: Survey, config: RunConfig, name: str, path: Path) -> bool:
    """Write the sheet of a data set as a PNG; whether there was anything to draw.

    Args:
        survey: of its images.
        config: how they are prepared for the network.
        name: of the data set, for the title.
        path: of the PNG.
    """
    height, width = config.data.image_size
    seen = "what is cut off, and on the right what the network sees" if survey.encoded else "what the network sees"
    title = f"{name}: {seen}, {width} wide, {height} high"
    if config.data.flip:
        title += ", every second one mirrored"
    picture = sheet(survey.shown, survey.labels, title=title, mirror=config.data.flip)
    if picture is not None:
        save_png(picture, path, {"dataset": name, "software": "ditkit"})
    return picture is not None


def save_pairs(pairs: Sequence[Reconstruction], autoencoder: str, path: Path) -> None:
    """Write a page of originals, each with what an autoencoder of this name made of it on its right, as a PNG."""
    pairs = pairs[:_MAX_PAIRS]
    factor = -(-_SMALLEST_PAIR // max(pairs[0].original.shape[:2]))
    cells = [
        np.concatenate([pair.original, pair.decoded], axis=1).repeat(factor, 0).repeat(factor, 1) for pair in pairs
    ]
    captions = [f"{pair.psnr:.1f} dB" for pair in pairs]
    title = f"{autoencoder}: original | decoded"
    picture = grid(cells, min(_PAIRS_IN_A_ROW, len(cells)), captions=captions, title=title, scale=1)
    save_png(picture, path, {"autoencoder": autoencoder, "software": "ditkit"})


def sheet(shown: Sequence[Thumbnail], labels: Sequence[str], *, title: str, mirror: bool = False) -> Image.Image | None:
    """One row per class, as many as fit on a page; None if `shown` is empty.

    An original is dimmed where it is cut off, and the result is on its right: with `mirror`, which is training with
    flipped images, every second result is mirrored.
    """
    if not shown:
        return None
    width, height = _cell(shown[0].seen)
    blank = np.full_like(_pair(shown[0], width, height, mirror=False), BACKGROUND)
    rows = [list(row) for _, row in groupby(shown, key=lambda thumbnail: thumbnail.label_id)]
    rows = rows[: max(1, _PAGE // (height + _CAPTION + _GAP))]
    columns = min(max(map(len, rows)), max(1, _PAGE // (blank.shape[1] + _GAP)))
    cells, captions = [], []
    for row in rows:
        for column in range(columns):
            if column < len(row):
                cells.append(_pair(row[column], width, height, mirror=mirror and column % 2 == 1))
                captions.append(_caption(row[column]))
            else:
                cells.append(blank)
                captions.append("")
    names = [labels[row[0].label_id] for row in rows] if labels else None
    return grid(cells, columns, captions=captions, row_names=names, title=title, scale=1)


def _cell(seen: np.ndarray) -> tuple[int, int]:
    """Width and height of a result on the page: small ones are enlarged by a whole number."""
    factor = -(-_SMALLEST_CELL // max(seen.shape[:2]))
    return seen.shape[1] * factor, seen.shape[0] * factor


def _pair(thumbnail: Thumbnail, width: int, height: int, *, mirror: bool) -> np.ndarray:
    """The original and the result side by side; the result alone where there is no original."""
    seen = to_picture(thumbnail.seen[:, ::-1] if mirror else thumbnail.seen)
    seen = seen.resize((width, height), Image.Resampling.NEAREST)
    if thumbnail.original is None or thumbnail.box is None:
        return np.asarray(seen)
    pair = Image.new("RGB", (2 * width + 2, height + 2), BACKGROUND)
    original = _marked(to_picture(thumbnail.original), thumbnail.box, width - 4, height)
    pair.paste(original, (width - 4 - original.width, 1 + (height - original.height) // 2))
    ImageDraw.Draw(pair).rectangle((width, 0, 2 * width + 1, height + 1), outline=FAINT_INK)  # margins are white
    pair.paste(seen, (width + 1, 1))
    return np.asarray(pair)


def _marked(original: Image.Image, box: tuple[float, float, float, float], width: int, height: int) -> Image.Image:
    """The original within a cell, dimmed and framed where it is cut off."""
    scale = min(width / original.width, height / original.height)
    size = max(1, round(original.width * scale)), max(1, round(original.height * scale))
    picture = original.resize(size, Image.Resampling.LANCZOS)
    if box == (0, 0, 1, 1):
        return picture
    left, top, right, bottom = (round(part * size[side % 2]) for side, part in enumerate(box))
    kept = left, top, max(left + 1, right), max(top + 1, bottom)
    dimmed = Image.blend(picture, Image.new("RGB", size, BACKGROUND), 0.6)
    dimmed.paste(picture.crop(kept), kept[:2])
    ImageDraw.Draw(dimmed).rectangle((kept[0], kept[1], kept[2] - 1, kept[3] - 1), outline=_FRAME)
    return dimmed


def _caption(thumbnail: Thumbnail) -> str:
    """A file's name without its folders, or an image's number."""
    return thumbnail.name.rpartition(" " if thumbnail.original is None else "/")[2]
