"""Judge: an extractor and the features of the real images; it turns drawn images into metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..config import RunConfig
from ..data.contract import Dataset
from .features import INCEPTION, Extractor, Features, default_name, open_extractor
from .metrics import (
    frechet,
    frechet_error,
    inception_score,
    jackknife_error,
    kid,
    parts_of,
    precision_recall,
    share_error,
    statistics,
    without_first,
)
from .real_images import open_real_images
from .reference import MOST_FEATURES, OnImage, Reference, open_reference

MIN_SAMPLES = 10  # images; metrics of fewer mean nothing
FEW = 1000  # images below which `frechet_real` would say nothing


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Scores images against the training images of a run."""

    extractor: Extractor
    reference: Reference

    def score(self, images: list[np.ndarray], labels: Sequence[str | None]) -> dict[str, float]:
        """Metrics of three or more drawn images, uint8 (H, W, C), and the labels that they were drawn for.

        As in `evaluate` each label was chosen a set number of times, not by chance.
        """
        return self.score_seen(self.extractor.extract(images), labels)

    def score_seen(self, seen: Features, labels: Sequence[str | None]) -> dict[str, float]:
        """Metrics of the features of drawn images, and the labels that these were drawn for.

        `frechet` (0 for equal sets, no upper end), `kid`, `precision` and `recall` in [0, 1], `accuracy` in [0, 1]
        where the extractor classifies all of the labels, `inception_score` for InceptionV3; each with its standard
        error, `frechet_error` … `frechet_real` is the Fréchet distance of real images to the other real ones (see
        `real_part`): how large it is for perfect images, because they are few.
        """
        real, features_NF = self.reference, seen.features_NF
        metrics = {
            "frechet": frechet(statistics(features_NF), real.statistics),
            "frechet_error": frechet_error(features_NF, real.statistics),
        }
        if part := self.real_part(len(features_NF)):
            first_NF = real.features_NF[:part]
            metrics["frechet_real"] = frechet(statistics(first_NF), without_first(real.statistics, first_NF))
        # All pairs of images are compared: of more than 10,000 it would take too long.
        metrics["kid"], metrics["kid_error"] = kid(
            features_NF[:MOST_FEATURES],
            real.features_NF,
            labels=labels[:MOST_FEATURES],
            real_sums_M=real.kernel_sums_N,
        )
        shares = dict(zip(("precision", "recall"), precision_recall(features_NF, real.features_NF), strict=True))
        for name, share in shares.items():
            metrics |= _share(name, share, min(len(features_NF), len(real.features_NF)))
        if classes := self.extractor.labels:
            pairs = [(seen.logits_NL[row].argmax(), label) for row, label in enumerate(labels) if label in classes]
            if len(pairs) == len(labels):
                right = sum(classes[column] == label for column, label in pairs)
                metrics |= _share("accuracy", right / len(pairs), len(pairs))
        if self.extractor.name == INCEPTION:
            metrics["inception_score"] = inception_score(seen.logits_NL)
            without = [inception_score(np.delete(seen.logits_NL, part, axis=0)) for part in parts_of(len(features_NF))]
            metrics["inception_score_error"] = jackknife_error(np.array(without))
        return metrics

    def real_part(self, drawn: int) -> int:
        """How many real images `frechet_real` compares with the others: as many as were drawn, at most half of all.

        None, 0, where they are few: their labels are as chance has them, and drawn ones are in proportion, which for a
        few makes drawn images look better than real ones.
        """
        part = min(drawn, self.reference.statistics.images // 2, len(self.reference.features_NF))
        return part if part >= FEW else 0


def _share(name: str, share: float, count: int) -> dict[str, float]:
    return {name: share, f"{name}_error": share_error(share, count)}


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
        dataset: the real images, if they are open already. From a web address or a repository they are not fetched.
        on_image: called with the number of real images done, and of all; not if the reference is in the cache.

    Raises:
        UsageError: for an unknown extractor or a missing package.
        DataError: without real images.
        MachineError: when weights cannot be fetched.
    """
    extractor = open_extractor(features or default_name(config.data.channels), device)
    images = dataset if dataset is not None else open_real_images(config.data)
    return Judge(extractor=extractor, reference=open_reference(images, config.data, extractor, on_image))
