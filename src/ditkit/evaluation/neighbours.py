"""The training images nearest to drawn ones, pixel by pixel, and how many drawn ones are copies (memorisation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..data.contract import Dataset
from ..visual.grid import grid, save_png
from .features import BATCH
from .metrics import share_error, squared_distances
from .reference import OnImage, readable_images

if TYPE_CHECKING:
    from .evaluate import Evaluation

SHOWN = 4  # neighbours of each image
COPY = 1 / 3  # of the distance to the second nearest


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Of each of N drawn images the nearest training images, the nearest first."""

    indices_NK: np.ndarray  # in the data set
    distances_NK: np.ndarray  # root of the mean squared difference of pixels in [0, 1]

    @property
    def is_copy_N(self) -> np.ndarray:
        """Whether the nearest is at most a third as far away as the second: a copy (Yoon et al. 2023, "Diffusion
        Probabilistic Models Generalize when They Fail to Memorize").
        """
        return self.distances_NK[:, 0] <= COPY * self.distances_NK[:, 1]

    @property
    def memorised(self) -> float:
        """The share of copies, in [0, 1]."""
        return float(self.is_copy_N.mean())


def nearest(images: Sequence[np.ndarray], dataset: Dataset, on_image: OnImage = lambda _done, _of: None) -> Neighbours:
    """The four nearest of all images of a data set to each of N drawn ones, uint8 (H, W, C) of the data's size.

    The data set is read once, 250 images at a time. A set of fewer than four has fewer neighbours.
    """
    drawn_NP = _pixels(images)
    indices_NK = np.empty((len(images), 0), dtype=np.int64)
    squares_NK = np.empty((len(images), 0))
    for start in range(0, len(dataset), BATCH):
        batch = readable_images(dataset, list(range(start, min(start + BATCH, len(dataset)))))
        if batch:
            squares_NM = np.concatenate(list(squared_distances(drawn_NP, _pixels([image for _, image in batch]))))
            indices_NK = np.concatenate(
                [indices_NK, np.broadcast_to([index for index, _ in batch], squares_NM.shape)], axis=1
            )
            squares_NK = np.concatenate([squares_NK, squares_NM], axis=1)
            best_NK = np.argsort(squares_NK, axis=1, kind="stable")[:, :SHOWN]
            indices_NK = np.take_along_axis(indices_NK, best_NK, axis=1)
            squares_NK = np.take_along_axis(squares_NK, best_NK, axis=1)
        on_image(min(start + BATCH, len(dataset)), len(dataset))
    return Neighbours(indices_NK=indices_NK, distances_NK=np.sqrt(squares_NK / drawn_NP.shape[1]) / 255)


def add_neighbours(
    evaluation: Evaluation,
    images: Sequence[np.ndarray],
    dataset: Dataset,
    picture: Path,
    name: str,
    metadata: Mapping[str, str],
    on_image: OnImage = lambda _done, _of: None,
) -> None:
    """Find the training images nearest to drawn ones: draw both, and add the share of copies to an evaluation."""
    neighbours = nearest(images, dataset, on_image)
    save_png(neighbours_grid(images, neighbours, dataset, name), picture, metadata)
    memorised = neighbours.memorised
    evaluation.metrics.update(memorised=memorised, memorised_error=share_error(memorised, len(images)))
    evaluation.about["neighbours"] = {"images": len(images), "picture": picture.name}


def neighbours_grid(images: Sequence[np.ndarray], neighbours: Neighbours, dataset: Dataset, name: str) -> Image.Image:
    """Each drawn image, and on its right its neighbours with their distances; copies are marked."""
    cells, captions = [], []
    for row, image in enumerate(images):
        cells.append(image)
        captions.append("copy!" if neighbours.is_copy_N[row] else "drawn")
        for column, index in enumerate(neighbours.indices_NK[row]):
            cells.append(dataset[int(index)][0])
            captions.append(f"{neighbours.distances_NK[row, column]:.3f}")
    across = (1 + neighbours.indices_NK.shape[1]) * (2 if len(images) > 5 else 1)
    return grid(cells, across, captions=captions, title=f"{name}: drawn, then the nearest training images")


def _pixels(images: Sequence[np.ndarray]) -> np.ndarray:
    """(N, H W C) from 0 to 255: distances between whole numbers are exact, so that those of copies are 0."""
    return np.stack([image.reshape(-1) for image in images]).astype(np.float64)
