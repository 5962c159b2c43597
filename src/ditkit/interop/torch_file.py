"""Files of torch.save, and bare pickles of tensors, as data: nothing in them is executed.

torch.save writes a zip archive of a pickle and, beside it, the numbers of each storage; before 1.6 it wrote several
pickles, then the storages, one after the other. Tensors are mapped from the file where they lie. Every storage must be
in the file as often as it says, and every tensor inside of its storage, so that a small file cannot become large.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from . import unpickle
from .file_kinds import KNOWN_FILES, unusable

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the format before 1.6
_LARGEST_PICKLE = 256 << 20  # bytes, without the tensors
_DTYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64, "Untyped": torch.uint8,
}  # fmt: skip
_MODULES = ("torch", "torch.storage", "torch.cuda")
_STORAGES = {f"{module}.{name}Storage": dtype for name, dtype in _DTYPES.items() for module in _MODULES}
_BY_NAME = {f"torch.{name}": dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)}


# What a damaged file raises: OSError, too, where a zip archive points outside of itself.
DAMAGE = (OSError, ValueError, OverflowError, RuntimeError, MemoryError, RecursionError, zipfile.BadZipFile)


class _Storage:
    """The numbers of a storage, which tensors look at."""

    __slots__ = ("bytes", "dtype")

    def __init__(self, bytes_: torch.UntypedStorage, dtype: torch.dtype):
        self.bytes, self.dtype = bytes_, dtype


def read(path: Path) -> Any:
    """What a file of torch.save or pickle.dump holds, as data: tensors, containers, plain values, and `Unread`.

    Raises CheckpointError for a file that is damaged, too large to be read safely, or of another kind, which it names.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", "check its permissions") from None
    try:
        if zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return _read_zip(file, _mapped(path))
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _read_stream(content, _mapped(path), {**_TENSORS, "torch.storage._load_from_bytes": _in_bytes})
    except DAMAGE as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        why = "it is no pickle" if why.startswith("at position") else why  # in the words of pickletools
    raise unusable(path) or CheckpointError(
        f"{path} was not written by torch.save, or it is damaged: {why[:200]}", f"{KNOWN_FILES}; nothing was executed"
    )


def read_content(content: bytes) -> Any:
    """What the content of a file of torch.save holds, as `read` gives it. Raises what `DAMAGE` lists."""
    return _read_zip(io.BytesIO(content), torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage())


def _read_zip(file: IO[bytes], mapped: torch.UntypedStorage) -> Any:
    """Of the format since 1.6; `file` and `mapped` are the same bytes."""
    with zipfile.ZipFile(file) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in infos if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("it is a zip archive of other files")
        (root,) = roots
        if f"{root}constants.pkl" in infos:
            raise ValueError("it is a TorchScript program, not weights")
        order = infos.get(f"{root}byteorder")
        if order and order.file_size < 9 and archive.read(order) == b"big":
            raise ValueError("it was written by a big-endian machine")
        main = infos[f"{root}data.pkl"]
        if main.file_size > _LARGEST_PICKLE:
            raise ValueError("its plain data are too large")
        content = io.BytesIO(archive.read(main))
    storages = _Storages(mapped, lambda key: _place(file, infos[f"{root}data/{key}"]))
    return unpickle.load(content, _TENSORS, storages.by_key)


def _place(file: IO[bytes], info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the content of an archive's entry begins, and its length."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("its tensors are compressed: unpack the archive, and save it with torch.save again")
    file.seek(info.header_offset)
    header = file.read(30)
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name + extra, info.file_size


def _read_stream(content: Any, mapped: torch.UntypedStorage, known: unpickle.Known) -> Any:
    """Of the format before 1.6, or of a bare pickle; `content` and `mapped` are the same bytes."""
    if unpickle.load(content) != _MAGIC:
        content.seek(0)
        return unpickle.load(content, known)
    unpickle.load(content)  # the protocol
    system = unpickle.load(content)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ValueError("it was written by a big-endian machine")
    main = content.tell()
    sizes = dict[str, int]()

    def note(key: Any) -> Any:
        """The size of each storage: where they are is known only after the whole of the pickle."""
        if key[0] == "storage":
            sizes[str(key[2])] = _count(key[4]) * _STORAGES[key[1]].itemsize

    unpickle.load(content, dict.fromkeys(known, lambda *_: None), note)
    names, places, end = unpickle.load(content), dict[str, tuple[int, int]](), content.tell()
    for name in map(str, names):
        places[name] = (end + 8, sizes[name])
        end += 8 + sizes[name]
    content.seek(main)
    return unpickle.load(content, known, _Storages(mapped, places.__getitem__).by_key)


class _Storages:
    """The storages of a file, each made once."""

    def __init__(self, mapped: torch.UntypedStorage, place: Callable[[str], tuple[int, int]]):
        self.mapped, self.place = mapped, place
        self.made = dict[str, _Storage]()
        self.left = mapped.nbytes()  # bytes of the file that no storage is made of

    def by_key(self, key: Any) -> Any:
        """The storage of a pickle's key: ("storage", its class, its name, where it was, how many numbers it has)."""
        if isinstance(key, tuple) and key[0] == "module":  # of the oldest files: an object and its source
            return key[1]
        if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage" or key[1] not in _STORAGES:
            raise ValueError("it refers to something else than tensors")
        _, kind, name, _, count, *view = key
        dtype, name = _STORAGES[kind], str(name)
        if name not in self.made:
            begin, length = self.place(name)
            needed = _count(count) * dtype.itemsize
            self.left -= needed
            if needed > length or begin < 0 or begin + needed > self.mapped.nbytes() or self.left < 0:
                raise ValueError("it is shorter than its tensors: a part of it is missing")
            content = self.mapped[begin : begin + needed]
            aligned = begin % max(1, dtype.itemsize) == 0
            self.made[name] = _Storage(content if aligned else content.clone(), dtype)
        whole = self.made[name]
        if not view or view[0] is None:
            return whole
        _, first, size = view[0]  # a part, as the oldest files have it
        first, size = _count(first) * dtype.itemsize, _count(size) * dtype.itemsize
        return _Storage(whole.bytes[first : first + size], dtype)


def _mapped(path: Path) -> torch.UntypedStorage:
    """A file as a storage whose pages are read from disk on first use; what is written to it stays in memory."""
    return torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)  # pyright: ignore[reportReturnType]


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ValueError("it has a storage of no sensible size")
    return value


def _tensor(
    storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any, dtype: Any = None
) -> Tensor:
    """A look at a storage. Raises ValueError for one that shows its numbers several times, or what is not in it."""
    dtype = dtype or storage.dtype
    sizes, steps = tuple(map(_count, shape)), tuple(map(_count, strides))
    numbers = storage.bytes.nbytes() // dtype.itemsize
    if math.prod(sizes) > numbers:
        raise ValueError("it has a tensor that is larger than the numbers stored for it")
    last = sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) if math.prod(sizes) else -1
    if _count(offset) + last >= numbers:
        raise ValueError("it has a tensor that goes beyond the numbers stored for it")
    return torch.empty(0, dtype=dtype).set_(storage.bytes, offset, sizes, steps)


def _tensor_of_dtype(
    storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], _grad: Any, _hooks: Any, dtype: Any
) -> Tensor:
    return _tensor(storage, offset, shape, strides, dtype=_BY_NAME[dtype])


def _wrapped(function: Any, _kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor of another class, or with attributes of its own: the tensor."""
    if function not in _TENSORS or function == "torch._tensor._rebuild_from_type_v2":
        raise ValueError("it has tensors of a kind that ditkit does not read")
    return _TENSORS[function](*arguments)


def _in_bytes(content: Any) -> _Storage:
    """What a bare pickle has for a storage: a file of torch.save before 1.6, in bytes."""
    mapped = torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage()
    storage = _read_stream(io.BytesIO(content), mapped, _TENSORS)
    if not isinstance(storage, _Storage):
        raise ValueError("it has a storage that is none")
    return storage


_TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": _wrapped,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *parts: ":".join(str(part) for part in parts if isinstance(part, (str, int))),
}
