"""What a run learns from: its images or their latents, those held out, and the way back to images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .autoencoders.contract import open_autoencoder
from .card import LatentStats
from .checkpoint import check_same_autoencoder
from .config import RunConfig
from .data.batches import Reader
from .data.contract import Dataset, Split, open_dataset
from .latent_cache import Latents, Recipe, open_latents
from .latents import Codec, LatentReader
from .previews import Cases, pixel_cases


@dataclass(frozen=True, kw_only=True)
class Material:
    """Images as the network sees them."""

    train: Dataset | Reader
    validation: Cases
    codec: Codec


def open_material(
    config: RunConfig,
    dataset: Dataset,
    device: torch.device,
    *,
    stats: LatentStats | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Material:
    """The train images of a config, `dataset`, and its held-out ones; latents are made where they are wanted.

    `stats` are those of a run that goes on, or of the model that it begins with; without them they are measured.
    Raises latent_cache.Interrupted when `should_stop` says so while latents are made, DataError for other autoencoder
    weights than the run's.
    """
    held_out = open_dataset(config.data, "validation")
    autoencoder = open_autoencoder(config, device)
    if config.autoencoder.name == "pixel":
        cases = pixel_cases(held_out, range(len(held_out)))
        return Material(train=dataset, validation=cases, codec=Codec(autoencoder, None))
    check_same_autoencoder(autoencoder, stats)
    if stats:  # those of an imported model do not say whose they are; from now on they do
        stats = replace(stats, autoencoder=autoencoder.fingerprint)

    def latents(images: Dataset, split: Split) -> Latents:
        recipe = Recipe(
            dataset=images,
            split=split,
            config=config,
            autoencoder=autoencoder,
            device=device,
            should_stop=should_stop,
        )
        return open_latents(recipe)

    train = latents(dataset, "train")
    stats = stats or train.statistics(autoencoder.fingerprint)
    validation = LatentReader(latents(held_out, "validation"), stats, config.seed) if len(held_out) else None
    return Material(
        train=LatentReader(train, stats, config.seed),
        validation=validation.all_means() if validation else pixel_cases(held_out, ()),
        codec=Codec(autoencoder, stats),
    )
