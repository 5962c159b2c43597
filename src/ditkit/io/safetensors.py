"""Tensors as .safetensors files, written and read without a copy of them in memory.

The format: the header's length in 8 bytes, the header in JSON, the tensors one after the other without a gap.
Neither torch nor numpy is imported before tensors are needed, so that a header can be read at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .reading import blaming_the_machine, most_open_files, open_regular

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

_TYPES = {  # the format's names to torch's and numpy's
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "BOOL": "bool",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_LARGEST_HEADER = 100_000_000  # bytes
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, RuntimeError)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a file (tensor names to entries, and `__metadata__`), and where its tensors start.

    Raises OSError, and ValueError for another kind of file. Never waits for a pipe.
    """
    with open_regular(path) as file:
        length = _header_length(file.read(8))
        return _parse_header(file.read(length)), 8 + length


def _header_length(prefix: bytes | bytearray) -> int:
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > _LARGEST_HEADER:
        raise ValueError("its header is longer than it")
    return length


def _parse_header(text: bytes | bytearray) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"))
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header


def pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """The content of a .safetensors file: its header, then one tensor after the other, whole where it is sharded.

    The library would copy all of them twice before it writes: 11 GB for the optimiser of the largest DiT.
    """
    import torch

    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, value in tensors.items():
        begin, end = end, end + value.numel() * value.element_size()
        dtype = _NAMES[str(value.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for value in tensors.values():
        gather = getattr(value.detach(), "full_tensor", value.detach)  # of a sharded one; all processes call it
        yield gather().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def parse(content: bytearray, source: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file's content, which they share. Raises CheckpointError if it is damaged.

    The library would copy them, so that continuing a run would need more memory than training it.
    """
    try:
        return dict(_tensors(content))
    except _DAMAGE as error:
        raise CheckpointError(f"{source} is damaged ({error})", "use another checkpoint") from None


def mapped(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file as read-only arrays whose pages are read from disk on first use.

    Together they keep one file open, as long as any of them is there. Raises CheckpointError if its header is damaged,
    MachineError where too many files are open.
    """
    import mmap

    import numpy as np

    most_open_files()
    try:
        header, start = read_header(path)
        header.pop("__metadata__", None)
        with open_regular(path) as file, blaming_the_machine(path):
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        arrays = {}
        for name, entry in header.items():
            dtype, offset = np.dtype(_TYPES[entry["dtype"]]), start + entry["data_offsets"][0]
            arrays[name] = np.ndarray(tuple(entry["shape"]), dtype, buffer=content, offset=offset)
        return arrays
    except (OSError, *_DAMAGE) as error:
        raise CheckpointError(f"{path} is damaged ({error})", "delete it: it is made again") from None


def _tensors(content: bytearray) -> Iterator[tuple[str, Tensor]]:
    import torch

    start = 8 + _header_length(content[:8])
    if start > len(content):
        raise ValueError("its header is longer than it")
    header = _parse_header(content[8:start])
    header.pop("__metadata__", None)
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if (kind := entry["dtype"]) not in _TYPES:
            raise ValueError(f"{name} has numbers of the type {kind}, which ditkit does not know")
        dtype: torch.dtype = getattr(torch, _TYPES[kind])
        shape, (begin, stop) = entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, stop)):
            raise ValueError(f"{name} has no sensible shape")
        if begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} is not where its header says")
        end = stop
        yield name, _view(content, dtype, shape, start + begin)
    if start + end != len(content):
        raise ValueError("it is longer or shorter than its header says")


def _view(content: bytearray, dtype: torch.dtype, shape: Sequence[int], offset: int) -> Tensor:
    import torch

    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    if offset % dtype.itemsize:  # a file of another writer
        return torch.frombuffer(content[offset : offset + count * dtype.itemsize], dtype=dtype).reshape(shape)
    return torch.frombuffer(content, dtype=dtype, count=count, offset=offset).reshape(shape)
