"""A judge of images: what an extractor sees in them, against what it saw in the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..config import RunConfig
from ..data.contract import Dataset, open_dataset
from .features import INCEPTION, Extractor, Seen, default_name, open_extractor
from .metrics import frechet, inception_score, kid, precision_recall, statistics
from .reference import OnImage, Reference, open_reference

FEWEST = 10  # images that say anything at all
HIGHER_IS_BETTER = frozenset({"precision", "recall", "accuracy", "inception_score"})


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Scores images against the training images of a run."""

    extractor: Extractor
    reference: Reference

    def score(self, images: list[np.ndarray], labels: Sequence[str | None]) -> dict[str, float]:
        """Metrics of at least two drawn images, uint8 (H, W, C), and the labels that were asked for."""
        return self.score_seen(self.extractor.see(images), labels)

    def score_seen(self, seen: Seen, labels: Sequence[str | None]) -> dict[str, float]:
        """Metrics of what the extractor saw in them.

        `frechet` (0 for equal sets, no upper end), `kid` with `kid_error`, `precision` and `recall` in [0, 1],
        `accuracy` in [0, 1] where the extractor tells the labels apart, `inception_score` for InceptionV3.
        """
        real = self.reference
        distance, error = kid(seen.features_NF, real.features_NF)
        precision, recall = precision_recall(seen.features_NF, real.features_NF)
        found = {
            "frechet": frechet(statistics(seen.features_NF), real.statistics),
            "kid": distance,
            "kid_error": error,
            "precision": precision,
            "recall": recall,
        }
        if known := self.extractor.labels:
            pairs = [(seen.logits_NL[row].argmax(), label) for row, label in enumerate(labels) if label in known]
            if len(pairs) == len(labels):
                found["accuracy"] = sum(known[column] == label for column, label in pairs) / len(pairs)
        if self.extractor.name == INCEPTION:
            found["inception_score"] = inception_score(seen.logits_NL)
        return found


def open_judge(
    config: RunConfig,
    *,
    features: str | None = None,
    device: str | torch.device = "cpu",
    dataset: Dataset | None = None,
    on_image: OnImage = lambda _done, _of: None,
) -> Judge:
    """The judge of a run's images; `dataset` are its real ones, opened as the config says if not given.

    `features` is lenet, inception or a .onnx file; if None, lenet for one channel and inception for three. Raises
    UsageError for an unknown extractor or a missing package, DataError without real images, MachineError when weights
    cannot be fetched.
    """
    extractor = open_extractor(features or default_name(config.data.channels), device)
    images = dataset if dataset is not None else open_dataset(config.data, "train")
    return Judge(extractor=extractor, reference=open_reference(images, config.data, extractor, on_image))
