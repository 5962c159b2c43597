"""What other projects compute otherwise, written into the weights, so that ditkit's network stays the one it is.

Legend: D width, F features of a timestep, C channels, P patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import RunConfig
from ..errors import CheckpointError, UsageError
from ..models.layers import position_table, timestep_frequencies

Layer = tuple[Tensor, Tensor]  # weight and bias


@contextmanager
def reading(path: Path, origin: str) -> Iterator[None]:
    """Around the conversion of a file: tensors that are missing or of another shape become a CheckpointError."""
    try:
        yield
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{path} looks like {origin}, but cannot be read as such: {why[:200]}", "get the file again"
        ) from None


def state_dict(tree: Any) -> dict[str, Tensor]:
    """Tensors by name, float32, without what torch.compile and DataParallel put before their names."""
    if not isinstance(tree, Mapping):
        raise ValueError("its weights are not tensors by name")
    tensors: dict[str, Tensor] = {}
    for name, value in tree.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError("its weights are not tensors by name")
        tensors[name.removeprefix("_orig_mod.").removeprefix("module.")] = value.detach().float()
    return tensors


def linear(tensors: MutableMapping[str, Tensor], name: str) -> Layer:
    """Weight and bias of a layer, taken out."""
    return tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.bias")


def known_heads(width: int, by_width: Mapping[int, int], path: Path) -> int:
    """The number of heads, which no tensor tells. Raises UsageError for a width that is none of the project's own."""
    if width not in by_width:
        raise UsageError(
            f"{path} does not say how many heads its attention has, and its width {width} is no usual one",
            "say it with --set model.heads=6",
        )
    return by_width[width]


def nothing_left(tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError if there are tensors that nobody has taken: it is another architecture."""
    if tensors:
        raise ValueError(f"{len(tensors)} of its tensors are none of that network ({next(iter(tensors))})")


def reordered(layer: Layer, order: Sequence[int]) -> Layer:
    """The same layer, the equal parts of its output in another order."""
    parts = [one.chunk(len(order)) for one in layer]
    return torch.cat([parts[0][index] for index in order]), torch.cat([parts[1][index] for index in order])


def channels_first(layer: Layer, patch: int, channels: int) -> Layer:
    """A final layer whose output is (P, P, C), as ditkit has it: (C, P, P)."""
    row = _rows(patch, channels)
    return layer[0][row], layer[1][row]


def channels_last(layer: Layer, patch: int, channels: int) -> Layer:
    """The way back from `channels_first`."""
    row = _rows(patch, channels).argsort()
    return layer[0][row], layer[1][row]


def _rows(patch: int, channels: int) -> Tensor:
    """Where each row of (C, P, P) is in (P, P, C)."""
    return torch.arange(patch * patch * channels).view(-1, channels).T.reshape(-1)


def shift_timestep_features(weight_DF: Tensor, *, start: float, sign: int) -> Tensor:
    """The first layer of a timestep MLP that is fed `start + sign * t`, for features of t: cosines, then sines.

    Exact: cos(w (a + s t)) = cos(wa) cos(wt) - s sin(wa) sin(wt), sin(w (a + s t)) = sin(wa) cos(wt) + s cos(wa)
    sin(wt); sign is 1 or -1.
    """
    cosine_DF, sine_DF = weight_DF.double().chunk(2, dim=1)
    angle_F = start * timestep_frequencies(cosine_DF.shape[1]).double()
    cosine_F, sine_F = angle_F.cos(), angle_F.sin()
    turned = (cosine_DF * cosine_F + sine_DF * sine_F, sign * (sine_DF * cosine_F - cosine_DF * sine_F))
    return torch.cat(turned, dim=1).float()


def flat(layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    """Weights and biases by their full names."""
    named = {f"{name}.weight": layer[0] for name, layer in layers.items()}
    return named | {f"{name}.bias": layer[1] for name, layer in layers.items()}


def check_positions(table_TD: Tensor, config: RunConfig) -> None:
    """Raises ValueError unless positions are those that ditkit computes; theirs may be rounded otherwise."""
    _, height, width = config.shape
    model = config.model
    expected_TD = position_table(model.positions, height // model.patch, width // model.patch, model.width)
    if table_TD.shape != expected_TD.shape or not torch.allclose(table_TD, expected_TD, atol=1e-3):
        raise ValueError("its positions are not the usual sines and cosines")
