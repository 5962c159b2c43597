"""A small convolutional classifier of handwritten digits, after LeNet, whose weights are in the package.

`python benchmarks/mnist_classifier.py` trains it. Legend: B images, H W pixels, F = 64 features.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..runtime.device import resized

FEATURES = 64
SIZE = 28
LABELS = tuple("0123456789")


class LeNet(nn.Module):
    """Five convolutions with BatchNorm, mean pooling over a 3 x 3 grid, then 64 features and 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_stage(1, 24, kernel=5, stride=1), _stage(24, 32, kernel=3, stride=2))
        self.middle = nn.Sequential(_stage(32, 48, kernel=3, stride=1), _stage(48, 64, kernel=3, stride=2))
        self.top = nn.Sequential(_stage(64, 96, kernel=3, stride=1), nn.AdaptiveAvgPool2d(3), nn.Flatten())
        self.embed = nn.Sequential(nn.Linear(96 * 9, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, len(LABELS))

    def features(self, image_B1HW: Tensor) -> Tensor:
        """The (B, 64) activations before the last linear layer, of images (B, 1, 28, 28) in [-1, 1]."""
        return self.embed(self.top(self.middle(self.stem(image_B1HW))))

    def logits(self, image_B1HW: Tensor) -> Tensor:
        """The (B, 10) class scores."""
        return self.head(self.features(image_B1HW))

    def forward(self, image_B1HW: Tensor) -> Tensor:
        return self.logits(image_B1HW)


def as_digits(image_BCHW: Tensor) -> Tensor:
    """Images of any size and 1 or 3 channels, in [-1, 1], as (B, 1, 28, 28)."""
    grey_B1HW = image_BCHW.mean(dim=1, keepdim=True)
    if grey_B1HW.shape[-2:] == (SIZE, SIZE):
        return grey_B1HW
    return resized(grey_B1HW, (SIZE, SIZE), "bilinear")


def _stage(channels_in: int, channels_out: int, *, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())
