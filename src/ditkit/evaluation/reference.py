"""The real images that drawn ones are compared with: those that a run was trained on, as the network saw them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch

from ..config import DataConfig
from ..data.batches import order
from ..data.contract import Dataset
from ..errors import CheckpointError, DataError
from ..io import safetensors
from ..io.atomic import write_atomically
from ..io.locks import exclusive
from ..io.paths import cache_folder
from .features import BATCH, Extractor
from .metrics import Statistics, statistics

MOST_IMAGES = 50_000  # as is usual for FID
MOST_FEATURES = 10_000  # of single images, for the metrics that need them
_NOT_OF_IMAGES = ("path", "max_bad")  # settings that say where the images are, not what they are
_OF_LOADING = ("workers", "worker_start", "worker_timeout")  # settings that say how images are loaded

OnImage = Callable[[int, int], None]  # images done, images in all


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Features of the real images: statistics of up to 50,000, and the features (N, F) of up to 10,000."""

    statistics: Statistics
    features_NF: np.ndarray
    fingerprint: str  # of the images, how they are prepared, and the extractor


def readable_images(dataset: Dataset, indices: list[int]) -> list[tuple[int, np.ndarray]]:
    """(index, image) of those that can be read, uint8 (H, W, C)."""
    images = []
    for index in indices:
        try:
            images.append((index, dataset[index][0]))
        except DataError:
            continue
    return images


def open_reference(
    dataset: Dataset, config: DataConfig, extractor: Extractor, on_image: OnImage = lambda _done, _of: None
) -> Reference:
    """The reference of a data set's images, from the cache, or computed and cached.

    Raises DataError for fewer than two readable images.
    """
    fingerprint = _fingerprint(dataset, config, extractor)
    path = cache_folder("references") / f"{fingerprint}.safetensors"
    with exclusive(path):
        try:
            tensors = safetensors.parse(bytearray(path.read_bytes()), path)
            return _as_reference({name: tensor.numpy() for name, tensor in tensors.items()}, fingerprint)
        except (OSError, CheckpointError, KeyError):
            pass
        arrays = _computed(dataset, extractor, on_image)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        write_atomically(path, safetensors.pieces(tensors))
    return _as_reference(arrays, fingerprint)


def _computed(dataset: Dataset, extractor: Extractor, on_image: OnImage) -> dict[str, np.ndarray]:
    indices = order(0, 0, len(dataset))[:MOST_IMAGES].tolist()  # without replacement; the same ones each time
    parts = []
    for start in range(0, len(indices), BATCH):
        images = [image for _, image in readable_images(dataset, indices[start : start + BATCH])]
        if images:
            parts.append(extractor.extract(images).features_NF)
        on_image(min(start + BATCH, len(indices)), len(indices))
    features_NF = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
    if len(features_NF) < 2:
        raise DataError("there are no real images to compare with", "check data.path")
    real = statistics(features_NF)
    return {
        "mean": real.mean_F,
        "covariance": real.covariance_FF,
        "images": np.array([real.images], dtype=np.int64),
        "features": np.ascontiguousarray(features_NF[:MOST_FEATURES]),
    }


def _as_reference(arrays: dict[str, np.ndarray], fingerprint: str) -> Reference:
    real = Statistics(mean_F=arrays["mean"], covariance_FF=arrays["covariance"], images=int(arrays["images"][0]))
    return Reference(statistics=real, features_NF=arrays["features"], fingerprint=fingerprint)


def _fingerprint(dataset: Dataset, config: DataConfig, extractor: Extractor) -> str:
    """Changes with the images, how they are prepared, and the extractor; not with where they are or who loads them."""
    settings = {key: value for key, value in asdict(config).items() if key not in _NOT_OF_IMAGES}
    # Their defaults stand in for them, so that references that were cached with the defaults are found.
    settings |= {key: getattr(DataConfig, key) for key in _OF_LOADING}
    parts = [dataset.fingerprint, settings, extractor.name, extractor.fingerprint, MOST_IMAGES, MOST_FEATURES]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
