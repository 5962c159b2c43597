"""What a checkpoint folder holds, and the proof that it is what was written.

The manifest is written last; a file counts only if the very bytes that are read have its length and SHA-256. That
detects damage, not an attacker, who would rewrite the manifest as well: nothing here can execute code either way.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..io.atomic import describe
from ..io.reading import NotRegularError, open_regular

NAME = "manifest.json"
FILES = ("ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json")
_WITH_AVERAGES = ("averages.safetensors", *FILES)  # of a run that keeps snapshots
_IMPORTED = (FILES[:1], FILES[:2])  # of an imported model, whose training cannot go on
FORMAT = 1
_LARGEST = 8 << 20  # bytes of a manifest
_BEFORE = "use the checkpoint before it, or a copy"


class NewerFormat(CheckpointError):
    """A checkpoint that a later ditkit wrote: whole, but this one cannot read it."""


class NotThere(CheckpointError):
    """A file that a checkpoint, though whole, never had: that of an imported model."""


def write(step: int, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The manifest of a checkpoint with these files."""
    tree = {"format": FORMAT, "step": step, "files": files}
    return json.dumps(tree, indent=1, sort_keys=True, allow_nan=False).encode("utf-8")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The files of a checkpoint folder with their lengths and sums. Raises CheckpointError when it is not whole."""
    path = folder / NAME
    try:
        tree = json.loads(_read_regular(path, None))
        newer = isinstance(tree, dict) and isinstance(tree.get("format"), int) and tree["format"] > FORMAT
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} is damaged (it is not JSON)", _BEFORE) from None
    if newer:
        raise NewerFormat(
            f"{folder}: format {str(tree['format'])[:20]} is newer than this ditkit understands ({FORMAT})",
            "upgrade with `pip install -U ditkit`",
        )
    files = tree.get("files") if isinstance(tree, dict) else None
    if (
        not isinstance(files, dict)
        or tree.get("format") != FORMAT
        or tuple(sorted(files)) not in (FILES, _WITH_AVERAGES, *_IMPORTED)
        or not all(_is_entry(entry) for entry in files.values())
        or not _is_step(folder, tree.get("step"))
    ):
        raise CheckpointError(f"{path} is damaged (it does not describe this checkpoint)", _BEFORE)
    return files


def read_file(folder: Path, name: str, files: Mapping[str, Mapping[str, Any]] | None = None) -> bytearray:
    """One file of a checkpoint folder, checked. Raises CheckpointError when it is not as its manifest says."""
    listed = files or read(folder)
    if name not in listed:
        hint = "leave out --no-ema" if name == FILES[1] else "train a new run from it with --init-from"
        raise NotThere(f"{folder} has no {name}: its model was imported without", hint)
    expected = listed[name]
    content = _read_regular(folder / name, expected["bytes"])
    if describe(content) != expected:
        raise CheckpointError(f"{folder / name} is damaged (its checksum differs)", _BEFORE)
    return content


def read_weights(path: Path) -> bytearray:
    """A weights file, checked against the manifest where one lies beside it. Raises CheckpointError."""
    if path.name in FILES and ((path.parent / NAME).exists() or is_checkpoint(path.parent)):
        return read_file(path.parent, path.name)
    return _read_regular(path, None, most=None)


def stated_sum(path: Path) -> str | None:
    """The SHA-256 of a weights file as the manifest beside it states it; None where there is none."""
    if path.name not in FILES or not (path.parent / NAME).exists():
        return None
    return read(path.parent).get(path.name, {}).get("sha256")


def verify(folder: Path) -> None:
    """Raise CheckpointError unless every file of a checkpoint is as its manifest says."""
    files = read(folder)
    for name in files:
        read_file(folder, name, files)


def is_whole(folder: Path) -> bool:
    """Whether `verify` finds nothing wrong."""
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def is_checkpoint(folder: Path) -> bool:
    """Whether a path that exists has a checkpoint's name; it may be damaged."""
    return re.fullmatch(r"step-\d{7,12}", folder.name) is not None and folder.exists()


def _read_regular(path: Path, size: int | None, most: int | None = _LARGEST) -> bytearray:
    """A regular file of a given size, or of at most `most` bytes. Never waits for a pipe nor follows a link."""
    alone = size is None and most is None  # a weights file that is in no checkpoint may be a link
    try:
        with open_regular(path, follow_links=alone) as file:
            status = os.fstat(file.fileno())
            if status.st_size != size if size is not None else most is not None and status.st_size > most:
                raise CheckpointError(f"{path} is damaged (it has {status.st_size} bytes)", _BEFORE)
            content = bytearray(status.st_size)
            del content[file.readinto(content) :]
            return content
    except NotRegularError:
        raise CheckpointError(f"{path} is damaged (it is not a plain file)", _BEFORE) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}", _BEFORE) from None


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and set(entry) == {"bytes", "sha256"}
        and type(entry["bytes"]) is int
        and 0 <= entry["bytes"] < 2**48
        and isinstance(entry["sha256"], str)
        and re.fullmatch("[0-9a-f]{64}", entry["sha256"]) is not None
    )


def _is_step(folder: Path, step: Any) -> bool:
    named = re.fullmatch(r"(?:\.tmp-)?step-(\d+)(?:-[0-9a-f]+)?", folder.name)
    return type(step) is int and (named is None or int(named[1]) == step)
