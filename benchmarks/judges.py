"""Who says how good samples are: the digit classifier for the recipe `mnist`, the face classifier for `celeba`."""

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
    """The training images of a recipe, (N, C, H, W) in [-1, 1], their labels, and what sees features in images."""

    image_NCHW: Tensor
    label_N: Tensor
    see: FeaturesAndLabels

    @property
    def classes(self) -> int:
        return int(self.label_N.max()) + 1

    def judge(self, drawn_NCHW: Tensor, asked_N: Tensor) -> Quality:
        """Quality of images in [-1, 1], equally many of each label; of each value one of 256 levels is taken."""
        levels_NCHW = ((drawn_NCHW.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        reference = self.reference(len(drawn_NCHW) // self.classes)
        return compared(*self.see(levels_NCHW), asked_N, reference)

    def reference(self, per_class: int) -> Reference:
        """Statistics of the real images, and the distance of as many of them as are judged."""
        return real_reference(self.see(self.image_NCHW)[0], self.label_N, per_class=per_class)


def open_judge(recipe: str, data_dir: Path | None) -> Judge:
    """The judge of a recipe's samples; CelebA is in `data_dir`."""
    if recipe == "mnist":
        digits = classifier_at(mnist_classifier.DEFAULT_OUT)
        image_N1HW, label_N = mnist_classifier.read_mnist(mnist_classifier.mnist_folder(), "train")
        return Judge(
            image_NCHW=image_N1HW,
            label_N=label_N,
            see=lambda image: mnist_classifier.features_and_labels(digits, image),
        )
    if data_dir is None:
        raise SystemExit("CelebA is not in the package: give its folder with --data-dir")
    faces = face_classifier.load_classifier()
    image_N3HW, attribute_NA = face_classifier.read_faces(data_dir, "train")

    def see(image: Tensor) -> tuple[Tensor, Tensor]:
        features_NF, logits_NA = face_classifier.features_and_logits(faces, image)
        return features_NF, (logits_NA[:, 0] > 0).long()

    with torch.inference_mode():
        return Judge(image_NCHW=image_N3HW, label_N=attribute_NA[:, 0].long(), see=see)
