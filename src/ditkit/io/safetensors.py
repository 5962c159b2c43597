"""Tensors as .safetensors files, written and read without a copy of them in memory.

The format: the header's length in 8 bytes, the header in JSON, the tensors one after the other without a gap.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from ..runtime.fsdp import full_tensor

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_ARRAYS = {"F16": np.float16, "F32": np.float32, "I64": np.int64}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_LARGEST_HEADER = 100_000_000


def pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """The content of a .safetensors file: its header, then one tensor after the other, whole where it is sharded.

    The library would copy all of them twice before it writes: 11 GB for the optimiser of the largest DiT.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, value in tensors.items():
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": _NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for value in tensors.values():
        yield full_tensor(value.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def parse(content: bytearray, source: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file's content, which they share. Raises CheckpointError if it is damaged.

    The library would copy them, so that continuing a run would need more memory than training it.
    """
    try:
        return dict(_tensors(content))
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{source} is damaged ({error})", "use another checkpoint") from None


def mapped(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file as read-only arrays that are read from disk where they are looked at.

    Raises CheckpointError if its header is damaged.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _LARGEST_HEADER)))
        header.pop("__metadata__", None)
        arrays = {}
        for name, entry in header.items():
            dtype, offset = _ARRAYS[entry["dtype"]], 8 + length + entry["data_offsets"][0]
            arrays[name] = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=tuple(entry["shape"]))
        return arrays
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path} is damaged ({error})", "delete it: it is made again") from None


def _tensors(content: bytearray) -> Iterator[tuple[str, Tensor]]:
    (length,) = struct.unpack_from("<Q", content)
    start = 8 + length
    if length > _LARGEST_HEADER or start > len(content):
        raise ValueError("its header is longer than it")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, stop) = _TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, stop)):
            raise ValueError(f"{name} has no sensible shape")
        if begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} is not where its header says")
        end = stop
        yield name, _view(content, dtype, shape, start + begin)
    if start + end != len(content):
        raise ValueError("it is longer or shorter than its header says")


def _view(content: bytearray, dtype: torch.dtype, shape: Sequence[int], offset: int) -> Tensor:
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    if offset % dtype.itemsize:  # a file of another writer
        return torch.frombuffer(content[offset : offset + count * dtype.itemsize], dtype=dtype).reshape(shape)
    return torch.frombuffer(content, dtype=dtype, count=count, offset=offset).reshape(shape)
