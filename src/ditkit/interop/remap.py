"""Renaming and folding tensors: what other projects compute in another way is folded into the weights.

So ditkit's network needs no switches for them.

Legend: D width, F features of a timestep, C channels, P patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..config import RunConfig
from ..errors import CheckpointError, UsageError
from ..models.layers import position_table, timestep_frequencies

Layer = tuple[Tensor, Tensor]  # weight and bias


@contextmanager
def reading(path: Path, origin: str) -> Iterator[None]:
    """Around the conversion of a file: missing tensors and other shapes become a CheckpointError."""
    try:
        yield
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{path} looks like {origin}, but cannot be read as such: {why[:200]}",
            "it is another network, or a part of one: ditkit reads DiTs as their papers have them",
        ) from None


def state_dict(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network as float32."""
    return {name: value.detach().float() for name, value in tensors.items()}


def linear(tensors: MutableMapping[str, Tensor], name: str) -> Layer:
    """Weight and bias of a layer, removed from `tensors`."""
    return tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.bias")


def depth(tensors: Mapping[str, Tensor]) -> int:
    """How many blocks there is any tensor of, so that one which lacks some is not taken for none."""
    return len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})


def block_layers(tensors: MutableMapping[str, Tensor], block: str, names: Mapping[str, str]) -> dict[str, Layer]:
    """The layers of a block that differ in name only (ditkit's: the other), removed from `tensors`."""
    return {name: linear(tensors, f"{block}.{other}") for name, other in names.items()}


def patch_layer(tensors: MutableMapping[str, Tensor], name: str) -> Layer:
    """A convolution (D, C, P, P) of patches as ditkit's linear layer (D, C P P), removed from `tensors`."""
    weight, bias = linear(tensors, name)
    return weight.flatten(1), bias


def stacked(layers: Sequence[Layer]) -> Layer:
    """Layers of one input as one layer: separate queries, keys and values as ditkit's qkv."""
    return torch.cat([weight for weight, _ in layers]), torch.cat([bias for _, bias in layers])


def known_heads(width: int, by_width: Mapping[int, int], path: Path) -> int:
    """The number of heads, which is in no tensor. Raises UsageError for a width that the project does not use."""
    if width not in by_width:
        numbers = [heads for heads in range(1, 65) if width % heads == 0 and 16 <= width // heads <= 128]
        raise UsageError(
            f"{path} does not say how many heads its attention has, and its width {width} is no usual one",
            f"say it with --set model.heads={numbers[-1] if numbers else 1}"
            + (f" ({', '.join(map(str, numbers))} are possible)" if numbers[1:] else ""),
        )
    return by_width[width]


def reordered(layer: Layer, order: Sequence[int]) -> Layer:
    """The same layer, the equal parts of its output in another order."""
    weights, biases = layer[0].chunk(len(order)), layer[1].chunk(len(order))
    return stacked([(weights[index], biases[index]) for index in order])


def channels_first(layer: Layer, patch: int, channels: int) -> Layer:
    """A final layer whose output is (P, P, C), as ditkit has it: (C, P, P)."""
    row = _rows(patch, channels)
    return layer[0][row], layer[1][row]


def channels_last(layer: Layer, patch: int, channels: int) -> Layer:
    """The inverse of `channels_first`."""
    row = _rows(patch, channels).argsort()
    return layer[0][row], layer[1][row]


def _rows(patch: int, channels: int) -> Tensor:
    """Where each row of (C, P, P) is in (P, P, C)."""
    return torch.arange(patch * patch * channels).view(-1, channels).T.reshape(-1)


def shift_timestep_features(weight_DF: Tensor, *, start: float, sign: int) -> Tensor:
    """The first layer of a timestep MLP whose input was `start + sign * t`, for features of t: cosines, then sines.

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
    """Raises ValueError unless positions are those that ditkit computes, except for rounding."""
    _, height, width = config.shape
    model = config.model
    expected_TD = position_table(model.positions, height // model.patch, width // model.patch, model.width)
    # Sines in bfloat16 are off by up to 0.002, in float16 by 0.0002; learned positions are off by more.
    tolerance = 4e-3 if torch.equal(table_TD, table_TD.bfloat16().float()) else 1e-3
    if table_TD.shape != expected_TD.shape or not torch.allclose(table_TD, expected_TD, atol=tolerance):
        raise ValueError("its positions are not the usual sines and cosines")
