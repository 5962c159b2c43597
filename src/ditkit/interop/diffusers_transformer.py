"""The tensors of diffusers' DiTTransformer2DModel as ditkit's, and back: the same numbers in another order.

diffusers keeps a copy of the timestep and label embedding in every block. D width, C channels, P patch.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import CheckpointError
from .diffusers_config import NULL_LABEL
from .remap import Layer, channels_first, channels_last, flat, linear, reordered

_TABLE = "norm1.emb.class_embedder.embedding_table.weight"
_SHARED = {  # ditkit's name: that within every block
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
    """ditkit's tensors, float32, of the transformer in `path`, `labels` rows of its label table and the null label's.

    `outputs` channels of its prediction are kept. Raises CheckpointError for tensors that are missing, too many, or
    differ between the copies.
    """
    left = {name: value.float() for name, value in tensors.items() if name != "pos_embed.pos_embed"}
    table = label_table(left, path)
    try:
        found = _taken(left, table, model, outputs)
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the tensor {error.args[0]}", "get the pipeline's folder again") from None
    except _Differ as error:
        raise CheckpointError(
            f"the blocks of {path} have different copies of {error}, and a DiT has one",
            "ditkit cannot express such a model",
        ) from None
    except (RuntimeError, IndexError, ValueError) as error:
        why = (str(error).splitlines() or [""])[0]
        raise CheckpointError(f"{path} has tensors of other shapes than a DiT's: {why}", "get it again") from None
    if left:
        raise CheckpointError(f"{path} has a tensor that no DiT has: {next(iter(left))}", "it is another network")
    return {"label.weight": torch.cat([table[:labels], table[-1:]]), **flat(found)}


def _taken(left: MutableMapping[str, Tensor], table: Tensor, model: ModelConfig, outputs: int) -> dict[str, Layer]:
    """ditkit's layers, taken out of `left`. Raises KeyError for one that is missing, _Differ for unequal copies."""
    weight, bias = linear(left, "pos_embed.proj")
    found = {"patch_in": (weight.flatten(1), bias)}
    for index in range(model.depth):
        theirs, ours = f"transformer_blocks.{index}", f"blocks.{index}"
        _same(table, left.pop(f"{theirs}.{_TABLE}"), _TABLE)
        for name, inside in _SHARED.items():
            layer = linear(left, f"{theirs}.{inside}")
            for one, other in zip(found.setdefault(name, layer), layer, strict=True):
                _same(one, other, inside)
        qkv = [linear(left, f"{theirs}.{name}") for name in _QKV]
        found[f"{ours}.attention.qkv"] = torch.cat([one[0] for one in qkv]), torch.cat([one[1] for one in qkv])
        found[f"{ours}.modulation"] = reordered(linear(left, f"{theirs}.norm1.linear"), _MODULATION)
        for name, inside in _IN_BLOCK.items():
            found[f"{ours}.{name}"] = linear(left, f"{theirs}.{inside}")
    found["final.modulation"] = linear(left, "proj_out_1")
    last = linear(left, "proj_out_2")
    weight, bias = channels_first(last, model.patch, len(last[1]) // model.patch**2)
    kept = outputs * model.patch**2
    found["final.linear"] = weight[:kept], bias[:kept]
    return found


def to_diffusers(tensors: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """The transformer's tensors of ditkit's, whose names `to_ditkit` has.

    The label table is as long as DiTPipeline needs it; rows that stand for no label are those of the null label.
    """
    layers = {name.removesuffix(".weight"): tensors[name] for name in tensors if name.endswith(".weight")}
    found = {name: (weight, tensors[f"{name}.bias"]) for name, weight in layers.items() if name != "label"}
    weight, bias = found["patch_in"]
    theirs = {"pos_embed.proj": (weight.unflatten(1, (-1, model.patch, model.patch)), bias)}
    table = tensors["label.weight"]
    table = torch.cat([table[:-1], table[-1:].expand(NULL_LABEL + 2 - len(table), -1)])
    tables = {}
    for index in range(model.depth):
        block, ours = f"transformer_blocks.{index}", f"blocks.{index}"
        tables[f"{block}.{_TABLE}"] = table
        theirs |= {f"{block}.{inside}": found[name] for name, inside in _SHARED.items()}
        parts = [one.chunk(3) for one in found[f"{ours}.attention.qkv"]]
        theirs |= {f"{block}.{name}": (parts[0][number], parts[1][number]) for number, name in enumerate(_QKV)}
        theirs[f"{block}.norm1.linear"] = reordered(found[f"{ours}.modulation"], _MODULATION_BACK)
        theirs |= {f"{block}.{inside}": found[f"{ours}.{name}"] for name, inside in _IN_BLOCK.items()}
    theirs["proj_out_1"] = found["final.modulation"]
    last = found["final.linear"]
    theirs["proj_out_2"] = channels_last(last, model.patch, len(last[1]) // model.patch**2)
    return {**flat(theirs), **tables}


def labels_in_use(table: Tensor, named: int) -> int:
    """How many labels a table has: at least `named`, without the rows after them that repeat the null label's."""
    used = (table[named:-1] != table[-1]).any(dim=1).nonzero()
    return named + (int(used[-1]) + 1 if len(used) else 0)


def label_table(tensors: Mapping[str, Tensor], path: Path) -> Tensor:
    """The label table of the first block. Raises CheckpointError if there is none."""
    name = f"transformer_blocks.0.{_TABLE}"
    if name not in tensors or tensors[name].ndim != 2 or len(tensors[name]) < 2:
        raise CheckpointError(f"{path} has no table of labels ({name})", "it is another network")
    return tensors[name]


class _Differ(Exception):
    """Copies of the layer of this name are not equal."""


def _same(one: Tensor, other: Tensor, name: str) -> None:
    if not torch.equal(one, other):
        raise _Differ(name)
