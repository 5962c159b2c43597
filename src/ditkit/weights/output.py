"""What every export needs: tensors in fewer bits, and files that are whole or absent."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .. import durable
from ..errors import MachineError, UsageError

Content = Iterable[bytes | memoryview]


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors as another type. Raises UsageError where a number is too large for it."""
    found = {name: value.to(dtype) for name, value in tensors.items()}
    for name, value in found.items():
        if not bool(value.isfinite().all()):
            spoken = str(dtype).removeprefix("torch.")
            raise UsageError(f"{name} has numbers that {spoken} cannot hold", "use --dtype bfloat16 or float32")
    return found


def write_file(path: Path, content: Content) -> None:
    """Write a file instead of one that is there. Raises MachineError when the disk does not take it."""
    with _disk(path):
        durable.make_folder(path.parent)
        durable.write_atomically(path, content)


def write_folder(folder: Path, files: Mapping[str, Content]) -> None:
    """Write files by their places inside a folder, instead of one that is there. Raises MachineError as `write_file`.

    The old folder goes when the new one is whole.
    """
    token = secrets.token_hex(4)
    temporary, old = (folder.with_name(f".{folder.name[:80]}.{kind}{token}.tmp") for kind in ("", "old-"))
    try:
        with _disk(folder):
            durable.make_folder(folder.parent)
            for name, content in files.items():
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                durable.write_synced(path, content)
            for place in (*(one for one in temporary.iterdir() if one.is_dir()), temporary):
                durable.sync_folder(place)
            durable.replace_folder(temporary, folder, old)
            durable.sync_folder(folder.parent)
    finally:
        for place in (temporary, old):
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"cannot write {path}: {error.strerror or error}", "free some space, or choose another place with --out"
        ) from None
