"""Networks whose features images are compared in: LeNet, InceptionV3, DINOv2, or any ONNX file.

Legend: B images, C channels, H W image, N images in all, F features, L classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint.loading import read_tensors
from ..checkpoint.tensors import load_into
from ..data.pixels import to_levels, to_tensor
from ..errors import DataError, MachineError, UsageError, unknown
from ..io.certificates import for_other_libraries
from ..io.paths import expanded, not_there
from ..io.snapshot import snapshot
from ..runtime.device import resized

LENET, INCEPTION, DINOV2 = "lenet", "inception", "dinov2"
NAMES = (LENET, INCEPTION, DINOV2)
BATCH = 250  # images
REPOSITORY = "facebook/dinov2-large"
_LENET_FILE = Path(__file__).parent / "lenet.safetensors"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_BY_HAND = f"check the network; it downloads {REPOSITORY} once, 1.2 GB"
_AGAIN = "`ditkit data list` shows what is in the cache, `ditkit data remove` empties it"
_SIDE = 224  # pixels
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which DINOv2 was trained with


@dataclass(frozen=True)
class Features:
    """Features (N, F) and class scores (N, L), both float32; L is 0 where the extractor is no classifier."""

    features_NF: np.ndarray
    logits_NL: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A network that turns images into features.

    `network` takes float32 (B, C, H, W) in [-1, 1], as large and with as many channels as the images are, and gives
    features (B, F) and class scores (B, L), if it has any.
    """

    name: str
    distance: str  # what the Fréchet distance of these features is called
    fingerprint: str  # of the weights
    labels: tuple[str, ...] = ()  # of its classes, as data sets call them; empty if it is no classifier
    network: Callable[[Tensor], tuple[Tensor, Tensor | None]]

    @torch.inference_mode()
    def extract(self, images: list[np.ndarray]) -> Features:
        """The features of images uint8 (H, W, C)."""
        batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        outputs = [self.network(to_tensor(batch)) for batch in batches]
        features_NF = np.concatenate([features.float().cpu().numpy() for features, _ in outputs])
        logits = [scores.float().cpu().numpy() for _, scores in outputs if scores is not None]
        return Features(features_NF, np.concatenate(logits) if logits else np.empty((len(images), 0), np.float32))


def default_name(channels: int) -> str:
    """The usual extractor for images of so many channels."""
    return LENET if channels == 1 else INCEPTION


def check_name(word: str) -> None:
    """Raises UsageError for a word that is neither an extractor's name nor a .onnx file."""
    if word in NAMES:
        return
    if expanded(word).suffix != ".onnx":
        if "/" in word or "." in word:
            raise UsageError(f"--features: {word} is not a .onnx file", f"give {', '.join(NAMES)}, or a .onnx file")
        raise unknown("extractor", word, NAMES)
    if not expanded(word).is_file():
        raise UsageError(f"--features: there is no file {word}", not_there(word))


def open_extractor(word: str, device: str | torch.device = "cpu") -> Extractor:
    """The extractor of a name (`lenet`, `inception`, `dinov2`) or a .onnx file.

    Raises UsageError for an unknown one and for a missing package, MachineError when its weights cannot be fetched.
    """
    check_name(word)
    known = {LENET: _lenet, INCEPTION: _inception, DINOV2: _dinov2}
    return known[word](device) if word in known else _onnx(expanded(word))


def _lenet(device: str | torch.device) -> Extractor:
    from .lenet import LABELS, LeNet, as_digits

    network = LeNet()
    load_into(network, {name: value.float() for name, value in read_tensors(_LENET_FILE).items()}, _LENET_FILE)
    network = network.to(device).eval().requires_grad_(False)

    def run(image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        features_BF = network.features(as_digits(image_BCHW.to(device)))
        return features_BF, network.head(features_BF)

    return Extractor(
        name=LENET,
        distance="Fréchet distance (LeNet)",
        fingerprint=_hash(_LENET_FILE.read_bytes()),
        labels=LABELS,
        network=run,
    )


def _inception(device: str | torch.device) -> Extractor:
    """torch-fidelity's InceptionV3, whose features are those of the original FID (Heusel et al. 2017)."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # pyright: ignore[reportMissingImports]
            FeatureExtractorInceptionV3,
        )
    except (ImportError, RuntimeError) as error:
        if "torchvision" in str(error):
            raise MachineError(
                f"torch-fidelity, which brings InceptionV3, needs the torchvision made for this torch ({error})",
                "install torch and torchvision together, from the same index, or choose others with --features",
            ) from None
        raise UsageError(
            f"the features of InceptionV3 need the package torch-fidelity ({error})",
            '`pip install "ditkit[evaluate]"`, or choose others with --features',
        ) from None
    try:
        with for_other_libraries():
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    except OSError as error:  # that of the network, too
        raise MachineError(
            f"cannot fetch the weights of InceptionV3: {error}",
            "run this once where there is a network; they stay in torch's cache (TORCH_HOME)",
        ) from None
    network = network.to(device).eval().requires_grad_(False)
    weights = [value.cpu().contiguous().numpy().tobytes() for value in network.state_dict().values()]

    def run(image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        image_B3HW = image_BCHW.expand(-1, 3, -1, -1) if image_BCHW.shape[1] == 1 else image_BCHW
        features_BF, scores_BL = network(to_levels(image_B3HW).to(device))
        return features_BF, scores_BL

    return Extractor(name=INCEPTION, distance="FID", fingerprint=_hash(b"".join(weights)), network=run)


class Dinov2(nn.Module):
    """Images float32 (B, C, H, W) in [-1, 1], of one channel or three, to the class token (B, F) of the last layer."""

    mean_311: Tensor
    std_311: Tensor

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.register_buffer("mean_311", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std_311", torch.tensor(_STD)[:, None, None])

    def forward(self, image_BCHW: Tensor) -> Tensor:
        levels_B3HW = ((image_BCHW + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)
        resized_B3HW = resized(levels_B3HW, (_SIDE, _SIDE), "bicubic")
        normalised = (resized_B3HW.clamp(0, 1) - self.mean_311) / self.std_311
        return self.network(pixel_values=normalised).pooler_output


def _dinov2(device: str | torch.device) -> Extractor:
    """DINOv2 of the hub, fetched once (Oquab et al. 2023; as a judge: Stein et al. 2023, arXiv 2306.04675)."""
    try:
        from transformers import Dinov2Model  # pyright: ignore[reportMissingImports]
        from transformers.utils import logging  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            f"the features of DINOv2 need the package transformers ({error})",
            '`pip install "ditkit[dinov2]"`, or choose others with --features',
        ) from None
    folder = snapshot(REPOSITORY, kind="model", revision=None, wanted=(_CONFIG, _WEIGHTS), by_hand=_BY_HAND)
    logging.disable_progress_bar()
    try:
        loaded: Any = Dinov2Model.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        transformer, report = loaded
    except Exception as error:  # many kinds, not all of them exported
        raise DataError(f"{folder} holds no DINOv2 ({str(error).splitlines()[0]})", _AGAIN) from None
    if report["missing_keys"]:
        raise DataError(f"{folder} holds no DINOv2: it lacks {sorted(report['missing_keys'])[0]}", _AGAIN)
    network = Dinov2(transformer).to(device).eval().requires_grad_(False)
    return Extractor(
        name=DINOV2,
        distance="Fréchet distance (DINOv2)",
        fingerprint=_hash((folder / _WEIGHTS).read_bytes()),
        network=lambda image_BCHW: (network(image_BCHW.to(device)), None),
    )


def _onnx(path: Path) -> Extractor:
    """A network of one input, float32 (B, C, H, W) in [-1, 1], whose first output is reshaped to (B, F)."""
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(
            "features of a .onnx file need the package onnxruntime", '`pip install "ditkit[onnx]"`'
        ) from None
    content = path.read_bytes()
    try:
        session: Any = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds of exceptions, which it does not export
        raise UsageError(f"{path} cannot be opened: {str(error).splitlines()[0]}", "give another .onnx file") from None
    input_name = session.get_inputs()[0].name

    def run(image_BCHW: Tensor) -> tuple[Tensor, None]:
        try:
            output = session.run(None, {input_name: image_BCHW.numpy()})[0]
        except Exception as error:
            shape = " x ".join(map(str, image_BCHW.shape[1:]))
            raise UsageError(
                f"{path} does not take images of {shape}: {str(error).splitlines()[0]}",
                "it must take float32 (batch, channels, height, width) in [-1, 1]",
            ) from None
        return torch.from_numpy(np.asarray(output, dtype=np.float32).reshape(len(image_BCHW), -1)), None

    distance = f"Fréchet distance ({path.stem})"
    return Extractor(name=path.name, distance=distance, fingerprint=_hash(content), network=run)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
