"""What a run is trained on: images, or their latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..autoencoders.contract import open_autoencoder
from ..config import RunConfig
from ..data.batches import Reader
from ..data.contract import Dataset, Datasets
from ..latents.cache import LatentSpec, open_latents
from ..latents.codec import Codec, check_same_autoencoder
from ..latents.reader import LatentReader
from ..runs.model_info import LatentStats
from .validation_set import Cases, pixel_cases


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Images, or their latents, as the network models them, and how they become images again."""

    train: Dataset | Reader
    validation: Cases
    codec: Codec


def open_training_data(
    config: RunConfig,
    datasets: Datasets,
    device: torch.device,
    *,
    stats: LatentStats | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingData:
    """The images of `datasets`, or their latents, which are encoded where they are missing.

    `stats` are those of a run that continues, or of the model that it starts from; without them they are measured.
    Raises latents.cache.Interrupted when `should_stop` becomes true while latents are encoded, DataError for other
    autoencoder weights than the run's.
    """
    dataset, held_out = datasets.train, datasets.validation
    autoencoder = open_autoencoder(config, device)
    if config.autoencoder.name == "pixel":
        cases = pixel_cases(held_out, range(len(held_out)))
        return TrainingData(train=dataset, validation=cases, codec=Codec(autoencoder, None))
    check_same_autoencoder(autoencoder, stats)
    if stats:  # those of an imported model do not say whose they are; from now on they do
        stats = replace(stats, autoencoder=autoencoder.fingerprint)

    spec = partial(LatentSpec, config=config, autoencoder=autoencoder, device=device, should_stop=should_stop)
    train = open_latents(spec(dataset=dataset, split="train"))
    stats = stats or train.statistics(autoencoder.fingerprint)
    cases = pixel_cases(held_out, ())
    if len(held_out):
        cases = LatentReader(open_latents(spec(dataset=held_out, split="validation")), stats, config.seed).all_means()
    return TrainingData(
        train=LatentReader(train, stats, config.seed), validation=cases, codec=Codec(autoencoder, stats)
    )
