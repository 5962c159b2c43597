"""What is settled once for a whole data set by looking at some of its images: white, black, the background.

It becomes part of the data set's settings and fingerprint, and of the settings of a run on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import IO, Protocol

import numpy as np
from PIL import Image

from ..config import DataConfig, RunConfig
from ..errors import DataError, UsageError
from .decode import decode_errors, opened
from .formats import ending
from .levels import Levels, black_of, is_deep, levels_of, white_of

MOST_SEEN = 64  # images that are looked at, and as many more of likely endings
_MOST_NAMED = 100_000  # images whose names are looked at
_PLAIN = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".bmp"})  # always 8 bits and opaque
_LIGHT = 230  # mean level of 0 to 255 from which what is visible would hardly be seen on white
_HIDDEN = 0.01  # part of an image that is transparent, at least


class Encoded(Protocol):
    """Encoded images, as sources have them."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str: ...

    def open_bytes(self, row: int) -> IO[bytes]: ...


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What one image is like."""

    levels: Levels | None = None  # of one with more than 8 bits
    lightness: float | None = None  # 0 to 255, mean of what is visible of one that is partly transparent


def settled(config: DataConfig, source: Encoded) -> DataConfig:
    """The settings with white, black and background where they leave these open and the images have use for them.

    Raises DataError where images are of kinds that have different whites, UsageError for a black that is not below.
    """
    if config.reading == 1:
        return config
    seen = _look(config, source)
    deep = [image.levels for image in seen if image.levels is not None]
    if not deep and config.white is not None and config.black is None:  # what a run has recorded are both
        raise UsageError(
            f"data.white does nothing: none of {len(seen)} images has one level a pixel of more than 8 bits (of colour "
            "images, 16 bits are read as 8)",
            "leave it out; where such images are rare, set data.black too",
        )
    if deep:
        white = config.white if config.white is not None else _white(deep)
        black = config.black if config.black is not None else min(black_of(levels, white) for levels in deep)
        if black >= white:
            raise UsageError(f"data.black {black:g} is not below data.white {white:g}", "change --set data.white")
        config = replace(config, white=white, black=black)
    lightness = [image.lightness for image in seen if image.lightness is not None]
    if lightness and config.background is None:
        config = replace(config, background="black" if np.median(lightness) >= _LIGHT else "white")
    return config


def settled_by(config: RunConfig, dataset: object) -> RunConfig:
    """The settings of a run with what an opened data set has settled."""
    data = getattr(dataset, "config", None)
    if not isinstance(data, DataConfig):
        return config
    return replace(config, data=replace(config.data, white=data.white, black=data.black, background=data.background))


def sentences(data: DataConfig, asked: DataConfig = DataConfig()) -> Iterator[str]:
    """How the images of an opened data set are read where that was settled, in words: what was not asked for."""
    if data.white is not None and asked.white is None:
        yield f"levels: {data.black or 0:g} is black and {data.white:g} white (data.black, data.white)"
    if data.background == "black" and asked.background is None:
        yield "transparent parts: black, because most images are light where they are visible (data.background)"


def _white(deep: list[Levels]) -> float:
    """The white of all images."""
    whites: dict[str, float] = {}
    for kind in sorted({levels.kind for levels in deep}):
        brightest = max((levels for levels in deep if levels.kind == kind), key=lambda levels: levels.brightest)
        whites[kind] = white_of(brightest)
    if len(set(whites.values())) > 1:
        listed = ", ".join(f"{white:g} of the {kind} ones" for kind, white in whites.items())
        raise DataError(
            f"the images have no white in common: {listed}",
            "convert them to one kind, or say which level is white: --set data.white=…",
        )
    return next(iter(whites.values()))


def _look(config: DataConfig, source: Encoded) -> list[_Seen]:
    """Some images in even steps, and as many of those whose endings allow more than 8 bits or transparency."""
    rows = _evenly(range(len(source)), _MOST_NAMED)
    likely = [row for row in rows if ending(source.name(row)) not in _PLAIN]
    chosen = sorted({*_evenly(rows, MOST_SEEN), *_evenly(likely, MOST_SEEN)})
    with ThreadPoolExecutor(8, thread_name_prefix="ditkit-settle") as pool:
        seen = list(pool.map(lambda row: _seen(lambda: source.open_bytes(row), config), chosen))
    getattr(source, "close", lambda: None)()  # what is replaced from now on is noticed
    return seen


def _evenly(rows: Sequence[int], most: int) -> list[int]:
    return [rows[index] for index in np.linspace(0, len(rows), min(len(rows), most), endpoint=False, dtype=int)]


def _seen(opener: Callable[[], IO[bytes]], config: DataConfig) -> _Seen:
    """What an image is like; nothing of one that cannot be read."""
    try:
        with opened(opener, config) as image:
            if is_deep(image):
                image.load()
                return _Seen(levels=levels_of(image))
            if image.has_transparency_data:
                image.load()
                return _Seen(lightness=_lightness(image.convert("RGBA")))
    except decode_errors:
        pass
    return _Seen()


def _lightness(image: Image.Image) -> float | None:
    alpha = np.asarray(image.getchannel("A"), dtype=np.float64) / 255
    if (alpha < 0.5).mean() < _HIDDEN or not alpha.any():
        return None
    return float((np.asarray(image.convert("L")) * alpha).sum() / alpha.sum())
