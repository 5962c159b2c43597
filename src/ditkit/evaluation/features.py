"""LeNet, Inception, DINOv2, ONNX."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint.loading import read_tensors
from ..checkpoint.tensors import load_into
from ..data.pixels import to_tensor
from ..errors import DataError, MachineError, UsageError, unknown
from ..io.hub import snapshot
from ..io.paths import expanded

REPOSITORY = "facebook/dinov2-large"
SETTINGS, WEIGHTS = "config.json", "model.safetensors"
_BY_HAND = f"check the network; it downloads {REPOSITORY} once, 1.2 GB"
_AGAIN = "`ditkit data list` shows what is in the cache, `ditkit data remove` empties it"
_SIDE = 224  # pixels
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which DINOv2 was trained with


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
        resized = F.interpolate(levels_B3HW, (_SIDE, _SIDE), mode="bicubic", align_corners=False, antialias=True)
        normalised = (resized.clamp(0, 1) - self.mean_311) / self.std_311
        return self.network(pixel_values=normalised).pooler_output


def open_dinov2() -> tuple[Dinov2, Path]:
    """The network, and the file of its weights, fetched once.

    Raises UsageError without the package transformers, MachineError for the network or the disk, DataError for files
    that are no DINOv2.
    """
    try:
        from transformers import Dinov2Model  # pyright: ignore[reportMissingImports]
        from transformers.utils import logging  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            f"the features of DINOv2 need the package transformers ({error})",
            "`pip install 'ditkit[dinov2]'`, or choose others with --features",
        ) from None
    folder = snapshot(
        REPOSITORY, kind="model", revision=None, wanted=frozenset((SETTINGS, WEIGHTS)).__contains__, by_hand=_BY_HAND
    )
    logging.disable_progress_bar()
    try:
        loaded: Any = Dinov2Model.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        network, found = loaded
    except Exception as error:  # many kinds, not all of them exported
        raise DataError(f"{folder} holds no DINOv2 ({str(error).splitlines()[0]})", _AGAIN) from None
    if found["missing_keys"]:
        raise DataError(f"{folder} holds no DINOv2: it lacks {sorted(found['missing_keys'])[0]}", _AGAIN)
    return Dinov2(network), folder / WEIGHTS


LENET, INCEPTION, DINOV2 = "lenet", "inception", "dinov2"
NAMES = (LENET, INCEPTION, DINOV2)
AT_ONCE = 250  # images
_LENET_FILE = Path(__file__).parent / "lenet.safetensors"


@dataclass(frozen=True)
class Seen:
    """Features (N, F) and class scores (N, L), both float32; L is 0 where the extractor is no classifier."""

    features_NF: np.ndarray
    logits_NL: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A network that turns images into features.

    `look` takes float32 (B, C, H, W) in [-1, 1], as large and with as many channels as the images are.
    """

    name: str
    distance: str  # what the Fréchet distance of these features is called
    fingerprint: str  # of the weights
    labels: tuple[str, ...]  # that it tells apart, by the words that a data set may have for them; empty if it cannot
    look: Callable[[Tensor], tuple[Tensor, Tensor | None]]

    @torch.inference_mode()
    def see(self, images: list[np.ndarray]) -> Seen:
        """The features of images uint8 (H, W, C)."""
        parts = [images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)]
        seen = [self.look(to_tensor(part)) for part in parts]
        features_NF = np.concatenate([features.float().cpu().numpy() for features, _ in seen])
        logits = [scores.float().cpu().numpy() for _, scores in seen if scores is not None]
        return Seen(features_NF, np.concatenate(logits) if logits else np.empty((len(images), 0), np.float32))


def default_name(channels: int) -> str:
    """The extractor for images of so many channels when nobody names one."""
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
        raise UsageError(f"--features: there is no file {word}", "check the path")


def open_extractor(word: str, device: str | torch.device = "cpu") -> Extractor:
    """The extractor that a word names.

    Raises UsageError for an unknown one and for a missing package, MachineError when its weights cannot be fetched.
    """
    check_name(word)
    if word == LENET:
        return _lenet(device)
    if word == DINOV2:
        return _dinov2(device)
    return _inception(device) if word == INCEPTION else _onnx(expanded(word))


def _lenet(device: str | torch.device) -> Extractor:
    from .lenet import LABELS, LeNet, as_digits

    network = LeNet()
    load_into(network, {name: value.float() for name, value in read_tensors(_LENET_FILE).items()}, _LENET_FILE)
    network = network.to(device).eval().requires_grad_(False)

    def look(image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        features_BF = network.features(as_digits(image_BCHW.to(device)))
        return features_BF, network.head(features_BF)

    return Extractor(
        name=LENET,
        distance="Fréchet distance (LeNet)",
        fingerprint=_hash(_LENET_FILE.read_bytes()),
        labels=LABELS,
        look=look,
    )


def _inception(device: str | torch.device) -> Extractor:
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
            "`pip install 'ditkit[evaluate]'`, or choose others with --features",
        ) from None
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    except OSError as error:  # that of the network, too
        raise MachineError(
            f"cannot fetch the weights of InceptionV3: {error}",
            "run this once where there is a network; they stay in torch's cache (TORCH_HOME)",
        ) from None
    network = network.to(device).eval().requires_grad_(False)
    state = {name: value.cpu().contiguous().numpy().tobytes() for name, value in network.state_dict().items()}

    def look(image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        image_B3HW = image_BCHW.expand(-1, 3, -1, -1) if image_BCHW.shape[1] == 1 else image_BCHW
        levels = ((image_B3HW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        features_BF, scores_BL = network(levels.to(device))
        return features_BF, scores_BL

    return Extractor(name=INCEPTION, distance="FID", fingerprint=_hash(b"".join(state.values())), labels=(), look=look)


def _dinov2(device: str | torch.device) -> Extractor:
    # MOVED

    network, weights = open_dinov2()
    network = network.to(device).eval().requires_grad_(False)
    return Extractor(
        name=DINOV2,
        distance="Fréchet distance (DINOv2)",
        fingerprint=_hash(weights.read_bytes()),
        labels=(),
        look=lambda image_BCHW: (network(image_BCHW.to(device)), None),
    )


def _onnx(path: Path) -> Extractor:
    """A network of one input, float32 (B, C, H, W) in [-1, 1], whose first output is reshaped to (B, F)."""
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(
            "features of a .onnx file need the package onnxruntime", "`pip install 'ditkit[onnx]'`"
        ) from None
    content = path.read_bytes()
    try:
        session: Any = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds of exceptions, which it does not export
        raise UsageError(f"{path} cannot be opened: {str(error).splitlines()[0]}", "give another .onnx file") from None
    entry = session.get_inputs()[0].name

    def look(image_BCHW: Tensor) -> tuple[Tensor, None]:
        try:
            found = session.run(None, {entry: image_BCHW.numpy()})[0]
        except Exception as error:
            shape = " x ".join(map(str, image_BCHW.shape[1:]))
            raise UsageError(
                f"{path} does not take images of {shape}: {str(error).splitlines()[0]}",
                "it must take float32 (batch, channels, height, width) in [-1, 1]",
            ) from None
        return torch.from_numpy(np.asarray(found, dtype=np.float32).reshape(len(image_BCHW), -1)), None

    return Extractor(
        name=path.name,
        distance=f"Fréchet distance ({path.stem})",
        fingerprint=_hash(content),
        labels=(),
        look=look,
    )


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
