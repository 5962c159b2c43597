"""Is the model larger than this machine? before torch loads."""

from __future__ import annotations

from pathlib import Path

from ..config import RunConfig
from ..errors import UsageError
from ..io.text import format_count
from ..models.size import _FLOAT, hidden_width, parameters
from ..runtime.memory import _LARGEST_GPU, GPU_DEVICES, machine_memory


def training_bytes(config: RunConfig, labels: int) -> int:
    """The least memory that training takes: weights, moments, gradients, a batch and its noise, what backward needs.

    The last is of one image: a batch is split as far as memory asks for.
    """
    model, train = config.model, config.train
    channels, height, width = config.shape
    tokens = (height // model.patch) * (width // model.patch)
    kept = model.depth * (6 * model.width + 2 * hidden_width(model.mlp, model.width, model.mlp_ratio))  # of a token
    activations = 2 * tokens * kept  # 2 bytes each, as in bfloat16
    batch = 2 * _FLOAT * train.batch_size * channels * height * width
    return 5 * _FLOAT * parameters(config, labels) + batch + activations


def check_size(config: RunConfig, labels: int) -> None:
    """Raise UsageError when the model and its batch are larger than the machine, so that waiting does not help."""
    needed, memory = training_bytes(config, labels), machine_memory()
    if memory is None or needed <= memory:
        return
    limits = f"this machine has {format_count(memory)}B"
    if any(Path(device).exists() for device in GPU_DEVICES):
        if needed <= _LARGEST_GPU:
            return
        limits += f", and no GPU has more than {format_count(_LARGEST_GPU)}B"
    count = parameters(config, labels)
    large = 5 * _FLOAT * count > needed / 2
    raise UsageError(
        f"this model has {format_count(count)} parameters and needs about {format_count(needed)}B to train; {limits}",
        "lower model.width or model.depth, or take a --set model.preset (`ditkit list models`)"
        if large
        else "lower --batch-size or data.image_size, or raise model.patch",
    )
