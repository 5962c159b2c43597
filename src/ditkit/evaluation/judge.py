"""Judge: an extractor and the features of the real images; it turns drawn images into metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..config import RunConfig
from ..data.contract import Dataset, open_dataset
from .features import INCEPTION, Extractor, Features, default_name, open_extractor
from .metrics import frechet, inception_score, kid, precision_recall, statistics
from .reference import OnImage, Reference, open_reference

MIN_SAMPLES = 10  # images; metrics of fewer mean nothing
HIGHER_IS_BETTER = frozenset({"precision", "recall", "accuracy", "inception_score"})


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Scores images against the training images of a run."""

    extractor: Extractor
    reference: Reference

    def score(self, images: list[np.ndarray], labels: Sequence[str | None]) -> dict[str, float]:
        """Metrics of two or more drawn images, uint8 (H, W, C), and the labels that they were drawn for."""
        return self.score_seen(self.extractor.extract(images), labels)

    def score_seen(self, seen: Features, labels: Sequence[str | None]) -> dict[str, float]:
        """Metrics of the features of drawn images, and the labels that these were drawn for.

        `frechet` (0 for equal sets, no upper end), `kid` with `kid_error`, `precision` and `recall` in [0, 1],
        `accuracy` in [0, 1] where the extractor classifies all of the labels, `inception_score` for InceptionV3.
        """
        real = self.reference
        distance, error = kid(seen.features_NF, real.features_NF)
        precision, recall = precision_recall(seen.features_NF, real.features_NF)
        metrics = {
            "frechet": frechet(statistics(seen.features_NF), real.statistics),
            "kid": distance,
            "kid_error": error,
            "precision": precision,
            "recall": recall,
        }
        if classes := self.extractor.labels:
            pairs = [(seen.logits_NL[row].argmax(), label) for row, label in enumerate(labels) if label in classes]
            if len(pairs) == len(labels):
                metrics["accuracy"] = sum(classes[column] == label for column, label in pairs) / len(pairs)
        if self.extractor.name == INCEPTION:
            metrics["inception_score"] = inception_score(seen.logits_NL)
        return metrics


def open_judge(
    config: RunConfig,
    *,
    features: str | None = None,
    device: str | torch.device = "cpu",
    dataset: Dataset | None = None,
    on_image: OnImage = lambda _done, _of: None,
) -> Judge:
    """The judge of a run's images.

    Args:
        config: of the run; it says which the real images are, and how they are prepared.
        features: lenet, inception, dinov2 or a .onnx file; if None, lenet for one channel and inception for three.
        device: where the extractor runs.
        dataset: the real images, if they are open already.
        on_image: called with the number of real images done, and of all; not if the reference is in the cache.

    Raises:
        UsageError: for an unknown extractor or a missing package.
        DataError: without real images.
        MachineError: when weights cannot be fetched.
    """
    extractor = open_extractor(features or default_name(config.data.channels), device)
    images = dataset if dataset is not None else open_dataset(config.data, "train")
    return Judge(extractor=extractor, reference=open_reference(images, config.data, extractor, on_image))
