"""Checkpoints of torch.distributed.checkpoint (FSDP2, torchtitan): tensors in parts, put together again.

The folder's `.metadata` is a pickle, read as data: the size of each tensor and, for each of its parts, where in which
file it is. A part is what torch.save writes. State of optimisers is not read.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from . import unpickle
from .folders import METADATA
from .state_dicts import NO_WEIGHTS
from .torch_file import DAMAGE, read_content
from .unpickle import Unread


def read(folder: Path) -> dict[str, Any]:
    """The tensors and other values of a checkpoint by their full names. Raises CheckpointError if it is damaged."""
    try:
        with (folder / METADATA).open("rb") as file:
            metadata = unpickle.load(io.BytesIO(file.read()), {"torch.Size": lambda sizes=(): tuple(sizes)})
        return _values(folder, _attributes(metadata))
    except (*DAMAGE, KeyError, TypeError, AttributeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
    raise CheckpointError(
        f"{folder} cannot be read as a checkpoint of torch.distributed.checkpoint: {why[:200]}",
        "get the folder again, or save a full state dict",
    )


def _values(folder: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {name: _attributes(about).get("size") for name, about in metadata["state_dict_metadata"].items()}
    stored = sum(path.stat().st_size for path in folder.glob("*.distcp"))
    unread = unmade = 2 * stored  # bytes: a hostile list would have the same parts read again and again
    values: dict[str, Any] = {}
    filled: dict[str, int] = {}
    for key, place in metadata["storage_data"].items():
        index = _attributes(key.arguments[0])
        name, size = index["fqn"], sizes[index["fqn"]]
        if NO_WEIGHTS.search(name):
            continue
        unread -= _attributes(place)["length"]
        if unread < 0:
            raise ValueError("it has the same parts several times")
        part = _part(folder, _attributes(place))
        if size is None or not isinstance(part, Tensor):
            values[name] = part
            continue
        if name not in values:
            unmade -= math.prod(size) * part.element_size()
            if unmade < 0:
                raise ValueError("its tensors are larger than its files")
            values[name] = torch.empty(size, dtype=part.dtype)
        offset = index.get("offset") or (0,) * len(size)
        where = tuple(slice(begin, begin + length) for begin, length in zip(offset, part.shape, strict=True))
        values[name][where].copy_(part)
        filled[name] = filled.get(name, 0) + part.numel()
    missing = [name for name, count in filled.items() if count != values[name].numel()]
    if missing:
        raise ValueError(f"parts of {missing[0]} are missing")
    return values


def _part(folder: Path, place: Mapping[str, Any]) -> Any:
    """The content of one part."""
    name = place["relative_path"]
    if name != Path(name).name:
        raise ValueError("it refers to other folders")
    with (folder / name).open("rb") as file:
        file.seek(place["offset"])
        return read_content(file.read(min(place["length"], (folder / name).stat().st_size)))


def _attributes(value: Any) -> dict[Any, Any]:
    if not isinstance(value, Unread):
        raise ValueError("its list of parts is in another format")
    return value.attributes()
