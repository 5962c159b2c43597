"""The real images that drawn ones are compared with: those that a run was trained on, as the network saw them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property

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
from .metrics import Statistics, kernel_sums, statistics

MOST_IMAGES = 50_000  # as is usual for FID
MOST_FEATURES = 10_000  # of single images, for the metrics that need them
FEWEST_IMAGES = 3  # that have a covariance when one of them is left out
_NOT_OF_IMAGES = ("path", "max_bad", "balance")  # settings that say where the images are, not what they are
_ADDED = ("label_from",)  # settings that came later: references made before are those of None
_OF_READING = ("reading", "black", "white", "background")  # settings that the data set's own fingerprint has
_OF_LOADING = ("workers", "worker_start", "worker_timeout")  # settings that say how images are loaded

OnImage = Callable[[int, int], None]  # images done, images in all


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Features of the real images: statistics of up to 50,000, and the features (N, F) of up to 10,000."""

    statistics: Statistics
    features_NF: np.ndarray
    fingerprint: str  # of the images, how they are prepared, and the extractor
    labels: Mapping[str, int] = field(default_factory=dict)  # images of each label; empty without labels

    @cached_property
    def kernel_sums_N(self) -> np.ndarray:
        """See `metrics.kernel_sums`."""
        return kernel_sums(self.features_NF)


def readable_images(dataset: Dataset, indices: list[int]) -> list[tuple[int, np.ndarray]]:
    """(index, image) of those that can be read, uint8 (H, W, C)."""
    return [(index, image) for index, image, _ in _readable(dataset, indices)]


def _readable(dataset: Dataset, indices: list[int]) -> list[tuple[int, np.ndarray, int]]:
    """(index, image, label id) of those that can be read."""
    images = []
    for index in indices:
        try:
            images.append((index, *dataset[index]))
        except DataError:
            continue
    return images


def open_reference(
    dataset: Dataset, config: DataConfig, extractor: Extractor, on_image: OnImage = lambda _done, _of: None
) -> Reference:
    """The reference of a data set's images, from the cache, or computed and cached.

    Raises DataError for fewer than three readable images.
    """
    fingerprint = _fingerprint(dataset, config, extractor)
    path = cache_folder("references") / f"{fingerprint}.safetensors"
    with exclusive(path):
        try:
            tensors = safetensors.parse(bytearray(path.read_bytes()), path)
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            return _as_reference(arrays, fingerprint, dataset.labels)
        except (OSError, CheckpointError, KeyError):  # KeyError: older files have no labels
            pass
        arrays = _computed(dataset, extractor, on_image)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        write_atomically(path, safetensors.pieces(tensors))
    return _as_reference(arrays, fingerprint, dataset.labels)


def _computed(dataset: Dataset, extractor: Extractor, on_image: OnImage) -> dict[str, np.ndarray]:
    indices = order(0, 0, len(dataset))[:MOST_IMAGES].tolist()  # without replacement; the same ones each time
    parts, label_ids = [], []
    for start in range(0, len(indices), BATCH):
        images = _readable(dataset, indices[start : start + BATCH])
        if images:
            parts.append(extractor.extract([image for _, image, _ in images]).features_NF)
            label_ids += [label_id for _, _, label_id in images]
        on_image(min(start + BATCH, len(indices)), len(indices))
    if len(label_ids) < FEWEST_IMAGES:
        raise DataError(
            f"there are {len(label_ids)} real images to compare with, where {FEWEST_IMAGES} are the fewest",
            "check data.path",
        )
    features_NF = np.concatenate(parts)
    real = statistics(features_NF)
    return {
        "mean": real.mean_F,
        "covariance": real.covariance_FF,
        "images": np.array([real.images], dtype=np.int64),
        "features": np.ascontiguousarray(features_NF[:MOST_FEATURES]),
        "labels": np.bincount(label_ids, minlength=len(dataset.labels)).astype(np.int64),  # images of each
    }


def _as_reference(arrays: dict[str, np.ndarray], fingerprint: str, labels: tuple[str, ...]) -> Reference:
    real = Statistics(mean_F=arrays["mean"], covariance_FF=arrays["covariance"], images=int(arrays["images"][0]))
    numbers = dict(zip(labels, arrays["labels"].tolist(), strict=False))  # none where the images have no labels
    return Reference(statistics=real, features_NF=arrays["features"], fingerprint=fingerprint, labels=numbers)


def _fingerprint(dataset: Dataset, config: DataConfig, extractor: Extractor) -> str:
    """Changes with the images, how they are prepared, and the extractor; not with where they are or who loads them."""
    settings = {key: value for key, value in asdict(config).items() if key not in _NOT_OF_IMAGES + _OF_READING}
    settings = {key: value for key, value in settings.items() if key not in _ADDED or value is not None}
    # Their defaults stand in for them, so that references that were cached with the defaults are found.
    settings |= {key: getattr(DataConfig, key) for key in _OF_LOADING}
    parts = [dataset.fingerprint, settings, extractor.name, extractor.fingerprint, MOST_IMAGES, MOST_FEATURES]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
