"""The tensors of diffusers' DiTTransformer2DModel as ditkit's, and back: the same numbers in another order.

diffusers has a copy of the timestep and label embedding in every block. D width, C channels, P patch.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import CheckpointError
from .diffusers_config import NULL_LABEL
from .remap import Layer, block_layers, channels_first, channels_last, flat, linear, patch_layer, reordered, stacked

_TABLE = "norm1.emb.class_embedder.embedding_table.weight"
_SHARED = {  # ditkit's name: the name within every block
    "time.first": "norm1.emb.timestep_embedder.linear_1",
    "time.second": "norm1.emb.timestep_embedder.linear_2",
}
_IN_BLOCK = {"attention.out": "attn1.to_out.0", "mlp.first": "ff.net.0.proj", "mlp.second": "ff.net.2"}
_QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
_MODULATION = (0, 1, 3, 4, 2, 5)  # shift, scale, shift, scale, gate, gate in their shift, scale, gate, shift, …
_MODULATION_BACK = (0, 1, 4, 2, 3, 5)


def to_ditkit(
    tensors: Mapping[str, Tensor], model: ModelConfig, labels: int, *, outputs: int, path: Path
) -> dict[str, Tensor]:
    """ditkit's tensors, float32, of the transformer in `path`: its first `labels` labels and the null label.

    `outputs` channels of its prediction are kept. Raises CheckpointError for tensors that are missing, too many, or
    differ between the copies.
    """
    remaining = {name: value.float() for name, value in tensors.items() if name != "pos_embed.pos_embed"}
    table = label_table(remaining, path)
    try:
        layers = _layers(remaining, table, model, outputs)
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the tensor {error.args[0]}", "get the pipeline's folder again") from None
    except _Differ as error:
        raise CheckpointError(
            f"every block of {path} embeds timestep and label in its own way ({error} differs), as training with "
            "diffusers leaves it; the DiT of the paper, and ditkit's, does it once for all blocks",
            "ditkit reads pipelines that were converted from Meta's weights, or written by `ditkit export`",
        ) from None
    except (RuntimeError, IndexError, ValueError) as error:
        why = (str(error).splitlines() or [""])[0]
        raise CheckpointError(f"{path} has tensors of other shapes than a DiT's: {why}", "get it again") from None
    if remaining:
        raise CheckpointError(f"{path} has a tensor that no DiT has: {next(iter(remaining))}", "it is another network")
    return {"label.weight": torch.cat([table[:labels], table[-1:]]), **flat(layers)}


def _layers(tensors: MutableMapping[str, Tensor], table: Tensor, model: ModelConfig, outputs: int) -> dict[str, Layer]:
    """ditkit's layers, removed from `tensors`. Raises KeyError for a missing one, _Differ for unequal copies."""
    layers = {"patch_in": patch_layer(tensors, "pos_embed.proj")}
    for index in range(model.depth):
        block, own = f"transformer_blocks.{index}", f"blocks.{index}"
        _same(table, tensors.pop(f"{block}.{_TABLE}"), _TABLE)
        for name, other in _SHARED.items():
            copy = linear(tensors, f"{block}.{other}")
            for expected, tensor in zip(layers.setdefault(name, copy), copy, strict=True):
                _same(expected, tensor, other)
        layers[f"{own}.attention.qkv"] = stacked([linear(tensors, f"{block}.{name}") for name in _QKV])
        layers[f"{own}.modulation"] = reordered(linear(tensors, f"{block}.norm1.linear"), _MODULATION)
        layers |= {f"{own}.{name}": layer for name, layer in block_layers(tensors, block, _IN_BLOCK).items()}
    layers["final.modulation"] = linear(tensors, "proj_out_1")
    last = linear(tensors, "proj_out_2")
    weight, bias = channels_first(last, model.patch, len(last[1]) // model.patch**2)
    rows = outputs * model.patch**2
    layers["final.linear"] = weight[:rows], bias[:rows]
    return layers


def to_diffusers(tensors: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """The transformer's tensors of ditkit's; the inverse of `to_ditkit`.

    The label table is as long as DiTPipeline needs it; rows that stand for no label are those of the null label.
    """
    names = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight") and name != "label.weight"]
    own = {name: (tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names}
    weight, bias = own["patch_in"]
    layers = {"pos_embed.proj": (weight.unflatten(1, (-1, model.patch, model.patch)), bias)}
    table = tensors["label.weight"]
    table = torch.cat([table[:-1], table[-1:].expand(NULL_LABEL + 2 - len(table), -1)])
    tables = {}
    for index in range(model.depth):
        block = f"transformer_blocks.{index}"
        tables[f"{block}.{_TABLE}"] = table
        layers |= {f"{block}.{other}": own[name] for name, other in _SHARED.items()}
        weight, bias = own[f"blocks.{index}.attention.qkv"]
        qkv = zip(weight.chunk(3), bias.chunk(3), strict=True)
        layers |= {f"{block}.{name}": layer for name, layer in zip(_QKV, qkv, strict=True)}
        layers[f"{block}.norm1.linear"] = reordered(own[f"blocks.{index}.modulation"], _MODULATION_BACK)
        layers |= {f"{block}.{other}": own[f"blocks.{index}.{name}"] for name, other in _IN_BLOCK.items()}
    layers["proj_out_1"] = own["final.modulation"]
    last = own["final.linear"]
    layers["proj_out_2"] = channels_last(last, model.patch, len(last[1]) // model.patch**2)
    return {**flat(layers), **tables}


def labels_in_use(table: Tensor, named: int) -> int:
    """The number of labels in a table: at least `named`; rows after these that repeat the null label's do not count."""
    used = (table[named:-1] != table[-1]).any(dim=1).nonzero()
    return named + (int(used[-1]) + 1 if len(used) else 0)


def label_table(tensors: Mapping[str, Tensor], path: Path) -> Tensor:
    """The label table of the first block. Raises CheckpointError if there is none."""
    name = f"transformer_blocks.0.{_TABLE}"
    if name not in tensors or tensors[name].ndim != 2 or len(tensors[name]) < 2:
        raise CheckpointError(f"{path} has no table of labels ({name})", "it is another network")
    return tensors[name]


class _Differ(Exception):
    """The copies of the layer of this name are not equal."""


def _same(tensor: Tensor, copy: Tensor, name: str) -> None:
    if not torch.equal(tensor, copy):
        raise _Differ(name)
