"""The real images that drawn ones are compared with: those that a run was trained on, as it saw them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from ..config import DataConfig
from ..data.batches import order
from ..data.contract import Dataset
from ..errors import CheckpointError, DataError
from ..io import safetensors
from ..io.atomic import write_atomically
from ..io.locks import exclusive
from ..io.paths import cache_folder
from .features import AT_ONCE, Extractor
from .metrics import Statistics, statistics

MOST_IMAGES = 50_000  # as FID's users take them
MOST_FEATURES = 10_000  # kept one by one, for the distances that need them

OnImage = Callable[[int, int], None]  # images looked at, of how many


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What an extractor saw in the real images: statistics of up to 50,000, the features (N, F) of up to 10,000."""

    statistics: Statistics
    features_NF: np.ndarray
    fingerprint: str  # of the images, how they are prepared, and the extractor


def chosen_images(dataset: Dataset) -> list[int]:
    """Indices of up to 50,000 images, drawn without replacement; the same ones each time."""
    return order(0, 0, len(dataset))[:MOST_IMAGES].tolist()


def readable(dataset: Dataset, indices: list[int]) -> list[tuple[int, np.ndarray]]:
    """(index, image) of those that can be read, uint8 (H, W, C)."""
    found = []
    for index in indices:
        try:
            found.append((index, dataset[index][0]))
        except DataError:
            continue
    return found


def open_reference(
    dataset: Dataset, config: DataConfig, extractor: Extractor, on_image: OnImage = lambda _done, _of: None
) -> Reference:
    """The reference of a data set's images, from the cache, or computed and cached. Raises DataError without images."""
    name = _fingerprint(dataset, config, extractor)
    path = cache_folder("references") / f"{name}.safetensors"
    with exclusive(path):
        try:
            found = safetensors.parse(bytearray(path.read_bytes()), path)
            return _as_reference({key: value.numpy() for key, value in found.items()}, name)
        except (OSError, CheckpointError, KeyError):
            pass
        tensors = _computed(dataset, extractor, on_image)
        import torch

        write_atomically(path, safetensors.pieces({key: torch.from_numpy(one) for key, one in tensors.items()}))
    return _as_reference(tensors, name)


def _computed(dataset: Dataset, extractor: Extractor, on_image: OnImage) -> dict[str, np.ndarray]:
    indices = chosen_images(dataset)
    parts = []
    for start in range(0, len(indices), AT_ONCE):
        images = [image for _, image in readable(dataset, indices[start : start + AT_ONCE])]
        if images:
            parts.append(extractor.see(images).features_NF)
        on_image(min(start + AT_ONCE, len(indices)), len(indices))
    features_NF = np.concatenate(parts) if parts else np.empty((0, 1), np.float32)
    if len(features_NF) < 2:
        raise DataError("there are no real images to compare with", "check data.path")
    found = statistics(features_NF)
    return {
        "mean": found.mean_F,
        "covariance": found.covariance_FF,
        "images": np.array([found.images], dtype=np.int64),
        "features": np.ascontiguousarray(features_NF[:MOST_FEATURES]),
    }


def _as_reference(tensors: dict[str, np.ndarray], name: str) -> Reference:
    found = Statistics(mean_F=tensors["mean"], covariance_FF=tensors["covariance"], images=int(tensors["images"][0]))
    return Reference(statistics=found, features_NF=tensors["features"], fingerprint=name)


def _fingerprint(dataset: Dataset, config: DataConfig, extractor: Extractor) -> str:
    """Changes with the images, what is done to them, and who looks at them; not with where they lie."""
    settings = {key: value for key, value in asdict(config).items() if key not in ("path", "worker", "max_bad")}
    parts = [dataset.fingerprint, settings, extractor.name, extractor.fingerprint, MOST_IMAGES, MOST_FEATURES]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]
