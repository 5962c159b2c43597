"""Reads files of weights, in whatever format and however many there are of one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint.loading import read_tensors
from ..errors import CheckpointError
from . import torch_file
from .file_kinds import is_safetensors


def read_tree(path: Path) -> Any:
    """What a file holds, by its content: the tensors of a .safetensors file, or what torch.save was given.

    Raises CheckpointError for what is damaged, or is no file of weights.
    """
    return read_tensors(path) if is_safetensors(path) else torch_file.read(path)


def read_files(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of one model from one file or several, which hold nothing else. Raises CheckpointError."""
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tree = read_tree(path)
        if not isinstance(tree, dict) or not all(isinstance(value, Tensor) for value in tree.values()):
            raise CheckpointError(f"{path} holds something else than tensors by name", "get the folder again")
        tensors |= tree
    return tensors
