"""How good are a run's digits? Label accuracy, and Fréchet distance next to that of real images.

`python benchmarks/mnist_quality.py [RUN]` draws 1,000 samples (100 per class; RUN is whatever `ditkit sample --model`
takes, the newest run if left out) and asks the classifier of `mnist_classifier.py`, which is trained if there is none:
how many samples get the requested label, and the Fréchet distance of their features to those of the training images.
For comparison, the same distance is measured for 1,000 real training images (100 per class) whose features are left out
of the reference, as the mean of 5 draws; `ratio` is the first distance divided by the second.

Legend: N images, F features.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import torch
from mnist_classifier import (
    DEFAULT_OUT,
    Classifier,
    features_and_labels,
    load_classifier,
    mnist_folder,
    read_mnist,
)
from PIL import Image
from torch import Tensor

CLASSES = 10
REAL_DRAWS = 5


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What the benchmark prints."""

    samples: int
    label_accuracy: float
    frechet: float
    frechet_real: float
    ratio: float
    accuracy_by_class: list[float]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Statistics of real training images, with the distance that a sample of real images has from the others."""

    mean_F: Tensor
    covariance_FF: Tensor
    frechet_real: float


def frechet_distance(mean_a_F: Tensor, covariance_a_FF: Tensor, mean_b_F: Tensor, covariance_b_FF: Tensor) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the square root by eigenvalues (Heusel et al. 2017, eq. 6)."""
    values, vectors = torch.linalg.eigh(covariance_a_FF)
    root_FF = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root_FF @ covariance_b_FF @ root_FF).clamp(min=0).sqrt().sum()
    trace = covariance_a_FF.trace() + covariance_b_FF.trace() - 2 * cross
    return ((mean_a_F - mean_b_F).square().sum() + trace).item()


def statistics(features_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of features, in float64."""
    features_NF = features_NF.double()
    return features_NF.mean(dim=0), features_NF.T.cov()


def real_reference(features_NF: Tensor, labels_N: Tensor, *, per_class: int) -> Reference:
    """Statistics of the real images without those drawn last, and the distance of drawn ones (mean of 5 draws)."""
    rest: tuple[Tensor, Tensor] = statistics(features_NF)
    labels, distances = labels_N.unique().tolist(), []
    for seed in range(REAL_DRAWS):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.cat([_some_of_class(labels_N, label, per_class, generator) for label in labels])
        is_rest_N = torch.ones(len(labels_N), dtype=torch.bool)
        is_rest_N[drawn] = False
        rest = statistics(features_NF[is_rest_N])
        distances.append(frechet_distance(*statistics(features_NF[drawn]), *rest))
    return Reference(mean_F=rest[0], covariance_FF=rest[1], frechet_real=sum(distances) / len(distances))


def _some_of_class(labels_N: Tensor, label: int, count: int, generator: torch.Generator) -> Tensor:
    """Indices of `count` images of a class, drawn without replacement."""
    members = (labels_N == label).nonzero().flatten()
    return members[torch.randperm(len(members), generator=generator)[:count]]


def judge(images_N1HW: Tensor, labels_N: Tensor, classifier: Classifier, reference: Reference) -> Quality:
    """Quality of generated images (in [-1, 1]), of which `labels_N` are the requested labels."""
    return compared(*features_and_labels(classifier, images_N1HW), labels_N, reference)


def compared(features_NF: Tensor, predicted_N: Tensor, labels_N: Tensor, reference: Reference) -> Quality:
    """Quality of generated images by their features, and their predicted and requested labels."""
    right_N = (predicted_N == labels_N).double()
    frechet = frechet_distance(*statistics(features_NF), reference.mean_F, reference.covariance_FF)
    return Quality(
        samples=len(labels_N),
        label_accuracy=right_N.mean().item(),
        frechet=frechet,
        frechet_real=reference.frechet_real,
        ratio=frechet / reference.frechet_real,
        accuracy_by_class=[right_N[labels_N == label].mean().item() for label in labels_N.unique().tolist()],
    )


def draw(model: str | None, *, per_class: int, seed: int, out: Path, extra: list[str]) -> tuple[Tensor, Tensor]:
    """Samples of `ditkit sample`, read back from its PNGs: images N x 1 x 28 x 28 in [-1, 1] and labels N."""
    labels = [f"{label}*{per_class}" for label in range(CLASSES)]
    command = [sys.executable, "-m", "ditkit", "sample", "--labels", *labels, "--seed", str(seed), "--out", str(out)]
    command += ["--json", *(["--model", model] if model else []), *extra]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        raise SystemExit(f"ditkit sample failed with exit code {answer.returncode}: {' '.join(command)}")
    drawn = json.loads(answer.stdout)["images"]
    images = [_read_png(Path(image["path"])) for image in drawn]
    return torch.stack(images), torch.tensor([int(image["label"]) for image in drawn])


def _read_png(path: Path) -> Tensor:
    """A grey image, 1 x H x W in [-1, 1]."""
    with Image.open(path) as image:
        pixels_HW = numpy.asarray(image.convert("L"))
    return torch.from_numpy(pixels_HW.copy())[None].float() / 127.5 - 1


def classifier_at(path: Path) -> Classifier:
    """The classifier in a file, trained first if the file is missing."""
    if not path.exists():
        print(f"training the classifier {path} (about two minutes)", file=sys.stderr)
        script = Path(__file__).parent / "mnist_classifier.py"
        subprocess.run([sys.executable, str(script), "--out", str(path)], check=True, stdout=sys.stderr)
    return load_classifier(path)


def report(quality: Quality, seconds: float) -> str:
    """The figures as text."""
    by_class = " ".join(f"{label}:{share:.0%}" for label, share in enumerate(quality.accuracy_by_class))
    return "\n".join(
        [
            f"samples            {quality.samples} in {seconds:.0f} s",
            f"label accuracy     {quality.label_accuracy:.2%}   ({by_class})",
            f"Fréchet distance   {quality.frechet:.4f}",
            f"  of real images   {quality.frechet_real:.4f}   (mean of {REAL_DRAWS} draws)",
            f"  ratio            {quality.ratio:.2f}",
        ]
    )


def main() -> None:
    """Draw, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="run folder, checkpoint or weights file (default: the newest run)")
    parser.add_argument("--per-class", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classifier", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--mnist", type=Path, help="folder of the IDX files (default: the package's own)")
    parser.add_argument("--out", type=Path, help="keep the samples in this folder (default: a temporary one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments, extra = parser.parse_known_args()  # the rest goes to `ditkit sample`: --steps 20 --guidance 1.5
    classifier = classifier_at(arguments.classifier)
    images, labels = read_mnist(arguments.mnist or mnist_folder(), "train")
    features, _ = features_and_labels(classifier, images)
    reference = real_reference(features, labels, per_class=arguments.per_class)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.out or Path(temporary)
        samples = draw(arguments.run, per_class=arguments.per_class, seed=arguments.seed, out=out, extra=extra)
    seconds = time.perf_counter() - started
    quality = judge(*samples, classifier, reference)
    print(json.dumps(asdict(quality)) if arguments.json else report(quality, seconds))


if __name__ == "__main__":
    main()
