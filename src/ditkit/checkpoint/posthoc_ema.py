"""Post-hoc EMA: an average of the weights of any length, made after training (Karras et al. 2024, section 3.2).

While it trains, a run tracks two power-function averages and keeps snapshots of both. A sum of snapshots with the right
factors is the average that any other profile would have given, at any step that has a checkpoint.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..ema import TRACKED, combination
from ..errors import CheckpointError, MachineError, UsageError
from ..io import atomic, safetensors
from ..io.paths import check_space
from ..runs import manifest
from ..runs.folder import RunFolder, run_of
from ..runs.model_info import METADATA_KEY, read_metadata, read_model_info
from .tensors import AVERAGES

_FAR = 0.2  # of the wanted profile's norm: farther than that, the average is not the wanted one
_WITHOUT = "delete it, or leave out --ema"
_SUM, _MADE_OF = "sha256", "made_of"  # in the metadata of a snapshot, of a finished average


def write_snapshot(folder: RunFolder, step: int, tensors: Mapping[str, Tensor]) -> None:
    """Write the averages of a step, called length|name, with a checksum. Raises MachineError for a full disk."""
    digest = hashlib.sha256()
    for piece in itertools.islice(safetensors.pieces(tensors), 1, None):
        digest.update(piece)
    path = _snapshot(folder, step)
    try:
        atomic.make_folder(folder.snapshots)
        atomic.write_atomically(path, safetensors.pieces(tensors, {_SUM: digest.hexdigest()}))
    except OSError as error:
        raise MachineError(
            f"cannot write {path}: {error.strerror or error}",
            "free some space and run the same command again: it continues from the newest checkpoint",
        ) from None


def average(weights: Path, length: float) -> Path:
    """A weights file of a run's average of this length, at the step of a checkpoint's weights file; written if missing.

    Raises UsageError where no snapshots were kept, or none that can give this length, CheckpointError for damaged ones,
    MachineError for a full disk.
    """
    checkpoint = weights.resolve().parent
    run = run_of(weights)
    if run is None or not manifest.is_checkpoint(checkpoint):
        raise UsageError(f"--ema: {weights} is not a checkpoint of a run, so there are no snapshots", "name a run")
    files = manifest.read(checkpoint)
    if AVERAGES not in files:
        raise UsageError(
            f"--ema: {run.path} keeps no snapshots of its averages", "train with --snapshot-every N, or leave out --ema"
        )
    info = read_model_info(weights)
    sources = [_Source(checkpoint / AVERAGES, info.step), *_snapshots(run, info.step)]
    made_of = _identity(length, files[AVERAGES]["sha256"], sources)
    path = run.averages / checkpoint.name / f"ema-{length:g}.safetensors"
    if path.is_file() and read_metadata(path).get(_MADE_OF) == made_of:
        return path
    profiles = [(source.step, tracked) for source in sources for tracked in TRACKED]
    factors, distance = combination(profiles, (info.step, length))
    if distance > _FAR:
        raise UsageError(
            f"--ema: {run.path} kept its averages at {len(sources)} steps, too few for a length of {length:g}",
            "ask for a longer average, or train with snapshots more often (--snapshot-every)",
        )
    tensors = _sum(sources, factors, info.step)
    metadata = {METADATA_KEY: replace(info, weights=f"ema {length:g}").to_json(), _MADE_OF: made_of}
    try:
        atomic.make_folder(path.parent)
        check_space(path.parent, sum(tensor.nbytes for tensor in tensors.values()) + (64 << 10), "the average needs")
        atomic.write_atomically(path, safetensors.pieces(tensors, metadata))
    except OSError as error:
        hint = "free some space, or copy the run to where its folder can be written to"
        raise MachineError(f"cannot write {path}: {error.strerror or error}", hint) from None
    return path


@dataclass(frozen=True)
class _Source:
    """A file of averages."""

    path: Path
    step: int


def _snapshot(folder: RunFolder, step: int) -> Path:
    return folder.snapshots / f"step-{step:07d}.safetensors"


def _snapshots(folder: RunFolder, before: int) -> Iterator[_Source]:
    """Those of steps before a step, ascending; later ones may be of a course that the run was rolled back from."""
    named = ((re.fullmatch(r"step-(\d{7,12})", path.stem), path) for path in folder.snapshots.glob("*.safetensors"))
    for step, path in sorted((int(match[1]), path) for match, path in named if match):
        if step < before:
            yield _Source(path, step)


def _identity(length: float, newest: str, sources: list[_Source]) -> str:
    """What an average is made of, without reading all of it."""
    try:
        sums = [read_metadata(source.path).get(_SUM) for source in sources[1:]]
    except CheckpointError as error:
        raise CheckpointError(error.message, _WITHOUT) from None
    return hashlib.sha256(json.dumps([length, newest, [source.step for source in sources], sums]).encode()).hexdigest()


def _sum(sources: list[_Source], factors: np.ndarray, step: int) -> dict[str, Tensor]:
    """The weighted sum of all averages, in float32 by way of float64; a tensor at a time."""
    opened = [_opened(source, checked=index == 0) for index, source in enumerate(sources)]
    weighted = list(zip(itertools.product(opened, TRACKED), factors, strict=True))
    names = [name.partition("|")[2] for name in opened[0] if name.startswith(f"{TRACKED[0]:g}|")]
    tensors = {}
    for name in names:
        total = 0.0
        for (arrays, length), factor in weighted:
            try:
                total = total + factor * arrays[f"{length:g}|{name}"].astype(np.float64)
            except (KeyError, ValueError):
                raise CheckpointError(
                    f"the snapshots up to step {step} do not fit together (at {name})", "leave out --ema"
                ) from None
        tensors[name] = torch.from_numpy(np.asarray(total, dtype=np.float32))
    return tensors


def _opened(source: _Source, *, checked: bool) -> dict[str, np.ndarray]:
    """The arrays of a file whose content is what was written. Raises CheckpointError."""
    if checked:
        manifest.read_file(source.path.parent, source.path.name)
    elif _checksum(source.path) != read_metadata(source.path).get(_SUM):
        raise CheckpointError(f"{source.path} is damaged (its checksum differs)", _WITHOUT)
    return safetensors.mapped(source.path)


def _checksum(path: Path) -> str:
    """Of a snapshot's tensors, without the header that states it."""
    return atomic.sha256_of(path, start=safetensors.read_header(path)[1])
