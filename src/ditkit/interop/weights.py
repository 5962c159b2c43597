"""Reads files of weights, in whatever format and however many there are of one model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint.loading import read_tensors
from ..errors import CheckpointError
from ..io import safetensors
from . import distributed, torch_file
from .file_kinds import is_safetensors
from .folders import METADATA
from .sources import SETTINGS

_LARGEST_SETTINGS = 1 << 20  # bytes


def read_tree(path: Path) -> Any:
    """What a file holds, by its content: the tensors of a .safetensors file, or what torch.save was given.

    The `.metadata` of torch.distributed.checkpoint stands for its folder.

    Raises CheckpointError for what is damaged, or is no file of weights.
    """
    if path.name == METADATA:
        return distributed.read(path.parent)
    return read_tensors(path) if is_safetensors(path) else torch_file.read(path)


def stated_beside(path: Path) -> tuple[dict[str, Any], str]:
    """What the header of a .safetensors file says, and the config.json and args.json beside a file of weights.

    Some libraries write settings there only. A folder `checkpoints` is looked out of. What cannot be read, or is about
    another model of diffusers or transformers, says nothing. The second value is a line that names what was read.
    """
    stated: dict[str, Any] = {}
    if is_safetensors(path):
        header = safetensors.read_header(path)[0].get("__metadata__") or {}
        stated["header"] = {name: _parsed(value) for name, value in header.items()}
    folders = [path.parent, *([path.parent.parent] if path.parent.name == "checkpoints" else [])]
    for file in (folder / name for folder in folders for name in SETTINGS):
        with suppress(OSError, ValueError, RecursionError):
            tree = json.loads(file.read_bytes()) if file.stat().st_size < _LARGEST_SETTINGS else None
            if isinstance(tree, dict) and not {"_class_name", "architectures", "transformers_version"} & tree.keys():
                stated.setdefault(file.name, tree)
    files = [name for name in SETTINGS if name in stated]
    return stated, f"what {' and '.join(files)} beside it says is believed" if files else ""


def _parsed(text: str) -> Any:
    """The value of a text in JSON, else the text."""
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return text


def read_files(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of one model from one file or several, which hold nothing else. Raises CheckpointError."""
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tree = read_tree(path)
        if not isinstance(tree, dict) or not all(isinstance(value, Tensor) for value in tree.values()):
            raise CheckpointError(f"{path} holds something else than tensors by name", "get the folder again")
        tensors |= tree
    return tensors
