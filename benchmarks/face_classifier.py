"""A small classifier of face attributes at 64x64, the judge of CelebA samples. Its Fréchet distance is not FID.

`python benchmarks/face_classifier.py --data-dir FOLDER` trains it on CelebA's training images (three minutes for
10,000 of them) and prints its accuracy on the validation images. Images are B x 3 x 64 x 64 in [-1, 1].
Legend: B batch, N images, H W image, F features, A attributes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mnist_classifier import CACHE
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ditkit import recipes
from ditkit.data.contract import Split, open_dataset
from ditkit.data.image_dataset import ImageDataset

DEFAULT_OUT = CACHE / "face_classifier.safetensors"
ATTRIBUTES = [  # Male first: the labels of the samples
    "Male",
    "Smiling",
    "Eyeglasses",
    "Young",
    "Bangs",
    "Wearing_Hat",
    "Blond_Hair",
    "Black_Hair",
    "Brown_Hair",
    "Heavy_Makeup",
    "No_Beard",
    "Mouth_Slightly_Open",
    "Pale_Skin",
    "Wavy_Hair",
    "Bald",
]
FEATURES = 64


class FaceClassifier(nn.Module):
    """Five stages of convolutions with BatchNorm, mean pooling over a 2 x 2 grid, 64 features, logits."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(3, 24, 5, 2), (24, 32, 3, 1), (32, 48, 3, 2), (48, 64, 3, 2), (64, 96, 3, 2)]
        self.stages = nn.Sequential(*[_stage(*size) for size in sizes], nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.embed = nn.Sequential(nn.Linear(96 * 4, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, len(ATTRIBUTES))

    def features(self, image_B3HW: Tensor) -> Tensor:
        """The B x 64 activations before the last linear layer."""
        return self.embed(self.stages(image_B3HW))

    def forward(self, image_B3HW: Tensor) -> Tensor:
        return self.head(self.features(image_B3HW))


def _stage(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


@torch.inference_mode()
def features_and_logits(classifier: FaceClassifier, image_N3HW: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, 64) and logits (N, A) of any number of images."""
    features_NF = torch.cat([classifier.features(image_B3HW) for image_B3HW in image_N3HW.split(250)])
    return features_NF, classifier.head(features_NF)


def read_faces(folder: Path, split: Split) -> tuple[Tensor, Tensor]:
    """The faces of a split as `ditkit train celeba` sees them, unmirrored: images (N, 3, H, W), attributes (N, A)."""
    faces = _open_faces(folder, split, ATTRIBUTES[0])
    images = np.stack([faces[index][0] for index in range(len(faces))])
    columns = []
    for attribute in ATTRIBUTES:  # it decides which images are held out, so both splits are looked up
        both: list[ImageDataset] = [_open_faces(folder, part, attribute) for part in ("train", "validation")]
        has = {name: int(label) for part in both for name, label in zip(part.names, part.label_ids, strict=True)}
        columns.append([has[name] for name in faces.names])
    image_N3HW = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return image_N3HW, torch.tensor(columns).T.float()


def _open_faces(folder: Path, split: Split, attribute: str) -> ImageDataset:
    settings = {"path": str(folder), "label_by": attribute, "flip": False}
    dataset = open_dataset(recipes.load("celeba", {"data": settings}).data, split)
    assert isinstance(dataset, ImageDataset)
    return dataset


def train_classifier(image_N3HW: Tensor, attribute_NA: Tensor, *, epochs: int, seed: int) -> FaceClassifier:
    """One-cycle AdamW on mirrored and shifted images."""
    torch.manual_seed(seed)
    classifier = FaceClassifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * (len(image_N3HW) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.2)
    for _ in range(epochs):
        for chosen in torch.randperm(len(image_N3HW))[: len(image_N3HW) // 64 * 64].split(64):
            shift = torch.randint(-3, 4, (2,)).tolist()
            batch = image_N3HW[chosen].roll(shift, dims=(2, 3))
            batch = batch.flip(3) if torch.rand(()) < 0.5 else batch
            logits = classifier(batch.contiguous(memory_format=torch.channels_last))
            loss = F.binary_cross_entropy_with_logits(logits, attribute_NA[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


def load_classifier(path: Path = DEFAULT_OUT) -> FaceClassifier:
    """The trained classifier in evaluation mode."""
    if not path.exists():
        raise SystemExit(f"{path} is missing: python benchmarks/face_classifier.py --data-dir FOLDER makes it")
    classifier = FaceClassifier()
    classifier.load_state_dict(load_file(path))
    return classifier.eval()


def main() -> None:
    """Train, report the accuracy on the validation images, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="CelebA, as `ditkit train celeba` takes it")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    classifier = train_classifier(*read_faces(options.data_dir, "train"), epochs=options.epochs, seed=options.seed)
    image_N3HW, attribute_NA = read_faces(options.data_dir, "validation")
    right_A = ((features_and_logits(classifier, image_N3HW)[1] > 0) == (attribute_NA > 0)).float().mean(dim=0)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}
    save_file(state, options.out, metadata={"right_about_male": f"{right_A[0]:.4f}"})
    print(f"{time.perf_counter() - started:.0f} s; right about {len(image_N3HW)} validation images:")
    print(", ".join(f"{name} {share:.1%}" for name, share in zip(ATTRIBUTES, right_A.tolist(), strict=True)))


if __name__ == "__main__":
    main()
