"""What a network costs before it is built: plain arithmetic, so that the impossible is refused before torch loads."""

from __future__ import annotations

import os
from pathlib import Path

from ..config import ModelConfig, RunConfig
from ..errors import UsageError

_FLOAT = 4  # bytes
_LARGEST_GPU = 288 * 10**9  # bytes; how much a GPU really has is known only once torch is there
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dri/renderD128")


def hidden_width(kind: str, width: int, ratio: float) -> int:
    """Hidden width of the feed-forward; SwiGLU's three matrices get two thirds, so that the cost stays the same."""
    return 8 * round(width * ratio * 2 / 3 / 8) if kind == "swiglu" else int(width * ratio)


def parameters(config: RunConfig, labels: int) -> int:
    """Exactly how many the network of a config has, with `labels` classes and the null label."""
    model, D = config.model, config.model.width
    adaptive = model.conditioning.startswith("adaln")
    features = config.shape[0] * model.patch**2
    norm = 0 if adaptive else (2 * D if model.norm == "layer" else D)
    embeddings = _linear(features, D) + _linear(model.frequency_size, D) + _linear(D, D) + (labels + 1) * D
    modulation = _linear(D, 2 * D) if adaptive else 0
    final = norm + modulation + _linear(D, features * (2 if model.learned_sigma else 1))
    return embeddings + model.depth * _block(model, norm) + final


def _block(model: ModelConfig, norm: int) -> int:
    D, hidden = model.width, hidden_width(model.mlp, model.width, model.mlp_ratio)
    scales = 2 * (D // model.heads) if model.qk_norm else 0
    attention = _linear(D, 3 * D) + _linear(D, D) + scales
    feed_forward = _linear(D, hidden * (2 if model.mlp == "swiglu" else 1)) + _linear(hidden, D)
    plain = 2 * norm + attention + feed_forward
    if model.conditioning == "cross-attention":
        return plain + norm + _linear(D, D) + _linear(D, 2 * D) + _linear(D, D) + scales
    return plain + {"in-context": 0, "adaln": _linear(D, 4 * D), "adaln-zero": _linear(D, 6 * D)}[model.conditioning]


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def checkpoint_bytes(config: RunConfig, labels: int) -> int:
    """Weights, their moving average, the two moments of Adam, and the two averages of a run that keeps snapshots."""
    return (6 if config.train.snapshot_every else 4) * _FLOAT * parameters(config, labels)


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


def machine_memory() -> int | None:
    """Bytes of memory that this process may use at most; None where the system does not say."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return min([physical, *_container_limits()]) if physical > 0 else None


def free_memory(held: int = 0) -> int | None:
    """Bytes that this process may have, `held` of them already; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    return found[0] + held if found else None


def _container_limits() -> list[int]:
    """Memory limits of the control groups that this process is in, of both versions of Linux's interface."""
    limits = []
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    for group in groups:
        _, controllers, place = group.split(":", 2) if group.count(":") >= 2 else ("", "-", "")
        if controllers == "":
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        inner = root / place.lstrip("/")
        for folder in (inner, *inner.parents):
            limits += _number_in(folder / name)
            if folder == root:
                break
    return limits


def _number_in(path: Path) -> list[int]:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return []
    return [int(text)] if text.isdigit() and 0 < len(text) < 20 else []


def check_size(config: RunConfig, labels: int) -> None:
    """Raise UsageError when no patience would do: the model and its batch are larger than the machine."""
    needed, memory = training_bytes(config, labels), machine_memory()
    if memory is None or needed <= memory:
        return
    there = f"this machine has {_spoken(memory)}B"
    if any(Path(device).exists() for device in GPU_DEVICES):
        if needed <= _LARGEST_GPU:
            return
        there += f", and no GPU has more than {_spoken(_LARGEST_GPU)}B"
    count = parameters(config, labels)
    large = 5 * _FLOAT * count > needed / 2
    raise UsageError(
        f"this model has {_spoken(count)} parameters and needs about {_spoken(needed)}B to train; {there}",
        "lower model.width or model.depth, or take a --set model.preset (`ditkit list models`)"
        if large
        else "lower --batch-size or data.image_size, or raise model.patch",
    )


def _spoken(number: int) -> str:
    """`4.2 M`, `16 G`, `2.4 T`."""
    for size, letter in ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:,} "
