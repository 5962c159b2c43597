"""Train the LeNet with which `ditkit evaluate` and `mnist_quality.py` judge digits.

Images are B x 1 x 28 x 28 in [-1, 1]. Legend: B batch, H W image, F features.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ditkit.evaluation.lenet import LeNet as Classifier

CACHE = Path(__file__).parent / ".cache"
DEFAULT_OUT = CACHE / "mnist_classifier.safetensors"


def load_classifier(path: Path = DEFAULT_OUT) -> Classifier:
    """The trained classifier in evaluation mode."""
    classifier = Classifier()
    classifier.load_state_dict(load_file(path))
    return classifier.eval()


@torch.inference_mode()
def features_and_labels(classifier: Classifier, images_N1HW: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Features (N x 64) and predicted labels (N) of any number of images."""
    features = torch.cat([classifier.features(images_B1HW) for images_B1HW in images_N1HW.split(batch_size)])
    return features, classifier.head(features).argmax(dim=1)


def read_mnist(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images N x 1 x 28 x 28 in [-1, 1] and labels N of split "train" or "test", from the original IDX .gz files."""
    prefix = {"train": "train", "test": "t10k"}[split]
    images_NHW = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", header=16).reshape(-1, 1, 28, 28)
    labels_N = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", header=8)
    return torch.from_numpy(images_NHW).float() / 127.5 - 1, torch.from_numpy(labels_N).long()


def _read_idx(path: Path, *, header: int) -> numpy.ndarray:
    with gzip.open(path) as file:
        return numpy.frombuffer(file.read(), dtype=numpy.uint8, offset=header).copy()


def mnist_folder() -> Path:
    """The folder of the IDX files: in the installed package, else in the package of this checkout."""
    try:
        import ditkit
    except ImportError:
        return Path(__file__).parent.parent / "src" / "ditkit" / "data" / "mnist_files"
    return Path(str(ditkit.__path__[0])) / "data" / "mnist_files"


def _augment(images_B1HW: Tensor, generator: torch.Generator) -> Tensor:
    """Small random rotations, scalings and shifts; the empty border stays empty."""
    angle, shift_x, shift_y, zoom = torch.rand(4, len(images_B1HW), generator=generator) * 2 - 1
    angle, zoom = angle * 0.17, 1 + zoom * 0.08
    rows = torch.stack(
        [
            torch.stack([angle.cos() * zoom, -angle.sin() * zoom, shift_x * 0.12], dim=1),
            torch.stack([angle.sin() * zoom, angle.cos() * zoom, shift_y * 0.12], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(rows, list(images_B1HW.shape), align_corners=False)
    return F.grid_sample(images_B1HW + 1, grid, align_corners=False) - 1


def train_classifier(folder: Path, *, epochs: int, batch_size: int, seed: int) -> tuple[Classifier, float]:
    """Train with one-cycle AdamW; returns the classifier and its accuracy on the 10,000 test images."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = read_mnist(folder, "train")
    classifier = Classifier().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=1e-3, weight_decay=0.02)
    steps = epochs * (len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps, pct_start=0.2)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)[: steps // epochs * batch_size]
        for chosen in order.split(batch_size):
            batch = _augment(images[chosen], generator).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(classifier.logits(batch), labels[chosen], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    classifier.eval()
    test_images, test_labels = read_mnist(folder, "test")
    _, predicted = features_and_labels(classifier, test_images)
    return classifier, (predicted == test_labels).double().mean().item()


def main() -> None:
    """Train, report the test accuracy, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, help="where to save the weights (default: %(default)s)"
    )
    parser.add_argument("--half", action="store_true", help="save float16, as in the package")
    parser.add_argument("--mnist", type=Path, default=None, help="folder of the IDX files (default: the package's own)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.perf_counter()
    folder = arguments.mnist or mnist_folder()
    classifier, accuracy = train_classifier(
        folder, epochs=arguments.epochs, batch_size=arguments.batch_size, seed=arguments.seed
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}
    if arguments.half:
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file(state, arguments.out, metadata={"test_accuracy": f"{accuracy:.4f}"})
    print(f"test accuracy {accuracy:.2%} in {time.perf_counter() - started:.0f} s, saved to {arguments.out}")


if __name__ == "__main__":
    main()
