"""What sampling gives: an image with its label and seed, as an array, a picture, a file, or in a notebook."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Sample:
    """One drawn image; `seed` alone draws it again. NumPy takes a sample for its image, and a notebook shows it."""

    image: np.ndarray = field(repr=False)  # uint8 (height, width, channels)
    label: str | None  # None from an unconditional model
    seed: int

    @property
    def pil(self) -> Image.Image:
        """The image as one of PIL's, mode L or RGB."""
        from PIL import Image

        return Image.fromarray(self.image[:, :, 0] if self.image.shape[2] == 1 else self.image)

    @property
    def caption(self) -> str:
        """What stands below it in a grid."""
        return self.label or f"seed {self.seed}"

    def save(self, path: str | Path, text: Mapping[str, str] | None = None) -> None:
        """Write a PNG that says its label, its seed and `text`, or a file of another kind that PIL knows."""
        from ..visual.grid import save_png

        if Path(path).suffix.lower() != ".png":
            self.pil.save(path)
            return
        label = {"label": self.label} if self.label else {}
        save_png(self.image, Path(path), {**label, "seed": str(self.seed), **(text or {})})

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        content = io.BytesIO()
        self.pil.save(content, "PNG")
        return content.getvalue()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.image, dtype=dtype) if copy or dtype is not None else self.image


def save_grid(
    samples: Sequence[Sample], path: str | Path, *, columns: int | None = None, title: str | None = None
) -> None:
    """Write samples as one PNG, each above its label, or its seed where it has none.

    Args:
        samples: one or more, of one size.
        path: the PNG.
        columns: how many there are in a row; if None, a row for each label where equally many were drawn of each, one
            row for up to ten, else about as many as there are rows.
        title: above the grid.

    Raises:
        UsageError: without samples.
        MachineError: where the file cannot be written.
    """
    from ..errors import UsageError
    from ..visual import grid

    if not samples:
        raise UsageError("there are no samples to make a grid of", "draw some with ditkit.sample")
    captions = [sample.caption for sample in samples]
    across = columns or grid.columns([sample.label or "" for sample in samples])
    picture = grid.grid([sample.image for sample in samples], across, captions=captions, title=title)
    grid.save_png(picture, Path(path), {"seed": str(samples[0].seed), "software": "ditkit"})
