"""Which files of a folder are the weights of one model: one file, or all shards of one; no torch.

diffusers and transformers write NAME.safetensors or NAME.bin, NAME.fp16.safetensors for a variant, and for large models
NAME-00001-of-00002.safetensors and an index. Names alone decide, so that the same holds for a folder and for a
repository whose files have not been fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import CheckpointError, UsageError

COMPONENT = "diffusion_pytorch_model"  # what diffusers calls the weights of a part of a pipeline
_FILE = re.compile(
    r"(?P<stem>.+?)(\.(?P<variant>\w+))??(-(?P<number>\d{5})-of-(?P<count>\d{5}))?(\.(?P<after>\w+))??"
    r"(?P<kind>\.safetensors|\.bin|\.pt|\.pth|\.ckpt)",
    re.IGNORECASE,
)


def component_files(names: Iterable[str], place: object) -> list[str]:
    """The files of a part of a pipeline among the names in its folder `place`, all shards of it.

    Weights in full precision come first, .safetensors before .bin; the only variant is taken, too. Raises UsageError
    where several variants are all there is, CheckpointError where there are none, or shards are missing.
    """
    groups = {
        (variant, kind): files
        for (stem, variant, kind), files in grouped(names).items()
        if stem == COMPONENT and kind in (".safetensors", ".bin")
    }
    if not groups:
        raise CheckpointError(
            f"{place} has no weights: no {COMPONENT}.safetensors or .bin, also not in shards", "get the folder again"
        )
    variants = sorted({variant for variant, _ in groups})
    if "" not in variants and len(variants) > 1:
        raise UsageError(
            f"{place} has the variants {', '.join(variants)} of its weights, and none is the usual one",
            f"remove the others, or rename the files of one to {COMPONENT}.safetensors",
        )
    files = groups.get((variants[0], ".safetensors")) or groups[variants[0], ".bin"]
    return whole(files, place)


def is_component(path: str) -> bool:
    """Whether a path is that of weights of a part of a pipeline."""
    return any(stem == COMPONENT for stem, _, _ in grouped([path.rpartition("/")[2]]))


def grouped(names: Iterable[str]) -> dict[tuple[str, str, str], list[str]]:
    """Files of weights by (name, variant, ending): one file each, or the shards of one in their order."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name in sorted(names):
        if match := _FILE.fullmatch(name):
            is_shard = match["number"] is not None
            variant = (match["variant"] or match["after"] or "") if is_shard or match["stem"] == COMPONENT else ""
            stem = match["stem"] if is_shard or variant else name.removesuffix(match["kind"])
            groups.setdefault((stem, variant, match["kind"].lower()), []).append(name)
    return groups


def shards_beside(path: Path) -> list[Path]:
    """All shards that a file is one of, itself among them; the file alone if it is none.

    Raises CheckpointError if some are missing.
    """
    match = _FILE.fullmatch(path.name)
    if match is None or match["number"] is None:
        return [path]
    groups = grouped(other.name for other in path.parent.iterdir())
    names = next(names for names in groups.values() if path.name in names)
    return [path.with_name(name) for name in whole(names, path.parent)]


def whole(names: Sequence[str], place: object) -> list[str]:
    """A group of files, if no shard of it is missing. Raises CheckpointError otherwise."""
    match = _FILE.fullmatch(names[0])
    count = int(match["count"] or 1) if match else 1
    if len(names) != count:
        raise CheckpointError(
            f"{place} has {len(names)} of the {count} shards of {names[0]}", "get the others, too, into the same folder"
        )
    return list(names)


def variant_of(name: str) -> str:
    """The variant that a file of a part of a pipeline is of ("fp16"), or ""."""
    return next((variant for (_, variant, _) in grouped([name])), "")
