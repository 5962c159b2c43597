"""Images of PIL, NumPy and torch as PIL's: which axis the channels are, and what range floats have.

Floats have one range in a data set, which some of its images tell: it is [-1, 1] if the smallest value is below -0.8,
and [0, 1] if none is below 0, the smallest below 0.1 and the largest above it. Anything else is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UsageError

_OUTSIDE = 1e-3  # how far a float may lie outside its range: resizing and rounding
_DARK = 0.1  # a tenth of the way from black to white: the smallest value lies below it


def as_array(image: Any) -> np.ndarray:
    """An image as an array, with its channels where they were."""
    if _is_tensor(image):
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image  # numpy has no bfloat16
    return np.asarray(image)


def _is_tensor(image: Any) -> bool:
    """Whether it is one of torch, which need not be imported to know."""
    return hasattr(image, "detach")


def float_range(arrays: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """The range of the float images among some. Raises UsageError where they do not tell."""
    floats = [array for array in arrays if array.dtype.kind == "f" and array.size]
    if not floats:
        return None
    low, high = min(float(array.min()) for array in floats), max(float(array.max()) for array in floats)
    if -1 - _OUTSIDE <= low < 2 * _DARK - 1 and high <= 1 + _OUTSIDE:
        return -1.0, 1.0
    if -_OUTSIDE <= low < _DARK < high <= 1 + _OUTSIDE:
        return 0.0, 1.0
    raise UsageError(
        f"the images are floats from {low:.4g} to {high:.4g}, which is neither surely [0, 1] nor surely [-1, 1]",
        "give uint8 images, or floats in one of these ranges before any other normalisation",
    )


def as_picture(image: Any, row: int, scale: tuple[float, float] | None) -> Image.Image:
    """An image as one of PIL's; floats are in the range `scale`. Raises UsageError for what is none."""
    if isinstance(image, Image.Image):
        return image
    array = _channels_last(as_array(image), row, first=_is_tensor(image))
    if array.dtype.kind == "f":
        low, high = scale or (0.0, 0.0)
        if not (array.min() >= low - _OUTSIDE and array.max() <= high + _OUTSIDE):  # also for NaN
            raise UsageError(
                f"item {row} has values from {array.min():.4g} to {array.max():.4g}, the first ones are in "
                f"[{low:g}, {high:g}]",
                "bring all images into one range",
            )
        array = np.rint((array.clip(low, high) - low) * (255 / (high - low))).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UsageError(f"item {row} is an image of {array.dtype}", "give uint8 from 0 to 255, or floats")
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array))


def _channels_last(array: np.ndarray, row: int, *, first: bool) -> np.ndarray:
    """An array as (height, width, channels); where both ends may be the channels, they are `first` or last."""
    if array.ndim == 2:
        return array[:, :, None]
    shape = "x".join(map(str, array.shape))
    ends = [array.ndim == 3 and array.shape[axis] in (1, 3, 4) for axis in (0, -1)]
    if not any(ends) or not array.size:
        raise UsageError(
            f"item {row} has the shape {shape}", "an image is (height, width, channels), or channels first"
        )
    return array.transpose(1, 2, 0) if ends[0] and (first or not ends[1]) else array
