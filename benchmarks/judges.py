"""What judges samples: the digit classifier for the recipe `mnist`, the face classifier for `celeba`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import face_classifier
import mnist_classifier
import torch
from mnist_quality import Quality, Reference, classifier_at, compared, real_reference
from torch import Tensor

FeaturesAndLabels = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The training images of a recipe, (N, C, H, W) in [-1, 1], their labels, and the classifier."""

    image_NCHW: Tensor
    label_N: Tensor
    features_and_labels: FeaturesAndLabels

    @property
    def classes(self) -> int:
        return int(self.label_N.max()) + 1

    def judge(self, drawn_NCHW: Tensor, label_N: Tensor) -> Quality:
        """Quality of images in [-1, 1], rounded to 256 levels as in a file; each label as often in `label_N`."""
        levels_NCHW = ((drawn_NCHW.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        reference = self.reference(len(drawn_NCHW) // self.classes)
        return compared(*self.features_and_labels(levels_NCHW), label_N, reference)

    def reference(self, per_class: int) -> Reference:
        """Statistics of the real images, and the Fréchet distance of `per_class` of them of each label."""
        return real_reference(self.features_and_labels(self.image_NCHW)[0], self.label_N, per_class=per_class)


def open_judge(recipe: str, data_dir: Path | None) -> Judge:
    """The judge of a recipe's samples; CelebA is in `data_dir`."""
    if recipe == "mnist":
        digits = classifier_at(mnist_classifier.DEFAULT_OUT)
        image_N1HW, label_N = mnist_classifier.read_mnist(mnist_classifier.mnist_folder(), "train")
        return Judge(
            image_NCHW=image_N1HW,
            label_N=label_N,
            features_and_labels=lambda image: mnist_classifier.features_and_labels(digits, image),
        )
    if data_dir is None:
        raise SystemExit("CelebA is not in the package: give its folder with --data-dir")
    faces = face_classifier.load_classifier()
    image_N3HW, attribute_NA = face_classifier.read_faces(data_dir, "train")

    def features_and_labels(image: Tensor) -> tuple[Tensor, Tensor]:
        features_NF, logits_NA = face_classifier.features_and_logits(faces, image)
        return features_NF, (logits_NA[:, 0] > 0).long()

    with torch.inference_mode():
        return Judge(image_NCHW=image_N3HW, label_N=attribute_NA[:, 0].long(), features_and_labels=features_and_labels)
