"""Where results go and how they are printed: --out, --force, --json and --quiet, for all commands."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..io import paths
from ..io.paths import check_file, expanded
from ..runtime import launch
from . import console, tables

if TYPE_CHECKING:
    from .options import Output


def show_result(output: Output, record: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Print what a command has done: `record` as one line of JSON where --json asks for it, else `lines`."""
    if output.json:
        console.data(json.dumps(record))
    elif not output.quiet:
        tables.show(lines)


def output_folder(output: Output, default: Path, names: list[str]) -> Path:
    """The folder that --out names, else a new one called `default` or the next free name like it.

    Raises DitkitError when the files `names` cannot go there, or would overwrite others without --force.
    """
    if not output.out:
        paths.check_writable(default.parent)
        return paths.claim_free(default, folder=True) if launch.is_main() else default
    folder = expanded(output.out)
    paths.check_folder_name(folder)
    paths.check_writable(folder)
    if output.force or not launch.is_main():
        return folder
    existing = set(os.listdir(folder)) if folder.is_dir() else set()  # noqa: PTH208
    taken = [name for name in names if name in existing]
    if taken:
        raise UsageError(
            f"{folder / taken[0]} is there already" + (f", and {len(taken) - 1} more" if taken[1:] else ""),
            "overwrite with --force, or choose another folder with --out",
        )
    check_file(folder / names[-1], force=False)  # all who write such files write this one
    return folder


def check_suffix(out: Path, kind: str, example: str, *others: str, force: bool | None, option: str = "--out") -> Path:
    """The file that an option names. Raises DitkitError for another ending, and for what cannot be written to.

    Args:
        out: the path as it was typed.
        kind: what the file is, for the error.
        example: a name for it, whose ending is the usual one.
        others: more endings that it may have.
        force: overwrite what is there.
        option: the one that names it.
    """
    path = expanded(out)
    if path.is_dir() or path.suffix.lower() not in (Path(example).suffix, *others):
        raise UsageError(f"{option}: {path} is not the name of {kind}", f"e.g. {option} {example}")
    check_file(path, force=force, option=option)
    return path


def png_path(out: Path | None, stem: str, *, force: bool, beside: str | None = None) -> Path:
    """Where a picture goes: `out`, else `stem`.png here, under the next free name unless `force` overwrites.

    `beside` is the ending of a second file next to it. Raises UsageError or MachineError when it cannot be written.
    """
    if not (out or force):
        paths.check_writable(Path())
        return paths.claim_free(Path(stem), ".png")
    path = check_suffix(out or Path(f"{stem}.png"), "a PNG", f"{stem}.png", force=force)
    if beside:
        check_file(path.with_suffix(beside), force=force)
    return path


def npz_path(path: Path | None, *, force: bool | None) -> Path | None:
    """The file that --npz names, which can be written. Raises UsageError or MachineError."""
    return None if path is None else check_suffix(path, "a .npz file", "images.npz", force=force, option="--npz")
