"""Other people's .pt files: tensors and plain data only; nothing in them is executed."""

from __future__ import annotations

import argparse
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

SAFE: list[Any] = [argparse.Namespace]  # in addition to torch's list: training scripts save their arguments in one
_HINT = "ask whoever made it for a .safetensors file, or for one of tensors, numbers and text only"
_LOOK_INTO = 1 << 20  # bytes


def read_pickle(path: Path) -> Any:
    """What a file of torch.save holds, its tensors on the CPU and mapped from disk where its format allows it.

    Raises CheckpointError for a file that is damaged, or that names anything but tensors and plain data: a pickle can
    call whatever it names, so torch's weights-only reader refuses the name before anything is called.
    """
    try:
        with torch.serialization.safe_globals(SAFE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of another protocol
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", "check the path") from None
    except Exception as error:  # torch raises many kinds for files of other formats
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        name = match[1] if match else _first_name(path)
    if name:
        raise CheckpointError(
            f"{path} is refused, and nothing in it was executed: it calls {name}, which is code", _HINT
        )
    raise CheckpointError(f"{path} was not written by torch.save, or it is damaged", _HINT)


def _first_name(path: Path) -> str | None:
    """The first thing that a bare pickle would import, from its opcodes, none of which is executed."""
    words: list[str] = []
    try:
        with path.open("rb") as file:
            for code, argument, _ in pickletools.genops(file.read(_LOOK_INTO)):
                if code.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if code.name == "STACK_GLOBAL":
                    return ".".join(words[-2:])
                words += [argument] if isinstance(argument, str) else []
    except (OSError, ValueError):
        pass
    return None
