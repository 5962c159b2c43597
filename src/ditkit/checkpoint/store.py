"""Checkpoints of a run: save one, remove old ones, restore the newest that is whole."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import CheckpointError, MachineError
from ..io import atomic, safetensors
from ..io.locks import in_use_by_a_reader
from ..io.paths import check_space
from ..runs import manifest
from ..runs.folder import RunFolder, remove_leftovers
from ..runs.model_info import METADATA_KEY, ModelInfo
from ..runs.run_state import State, dump_state, parse_state
from .tensors import Trainable, checkpoint_bytes, load_file


def save(folder: RunFolder, *, info: ModelInfo, state: State, trainable: Trainable) -> Path:
    """Write one checkpoint durably; returns its folder. Raises MachineError when the disk does not take it.

    The older checkpoints stay until `prune`, so that a failure loses nothing.
    """
    final = folder.checkpoint(state.step)
    temporary = folder.checkpoints / f".tmp-{final.name}-{uuid.uuid4().hex[:8]}"
    try:
        atomic.make_folder(folder.checkpoints)
        check_space(folder.checkpoints, checkpoint_bytes(trainable), f"the checkpoint of step {state.step} needs")
        temporary.mkdir()
        files = {}
        for name, content in _contents(info, state, trainable):
            files[name] = atomic.write_synced(temporary / name, content)
        # The manifest last: a folder without one is no checkpoint, so that none is ever taken for whole too early.
        atomic.write_synced(temporary / manifest.NAME, manifest.write(state.step, files))
        atomic.sync_folder(temporary)
        if final.exists():  # a damaged one of this step that was not set aside
            atomic.rename(final, folder.checkpoints / f".trash-{uuid.uuid4().hex[:8]}")
        atomic.rename(temporary, final)
        atomic.sync_folder(folder.checkpoints)
        atomic.sync_folder(folder.path)  # the metrics' names, when they are new
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise MachineError(
                f"cannot save the checkpoint in {folder.checkpoints}: {error.strerror or error}",
                "free some space and run the same command again: it continues from the checkpoint before",
            ) from None
        raise
    return final


def prune(folder: RunFolder, keep: int, keep_every: int | None = None) -> None:
    """Remove checkpoints but the newest `keep`, that of the lowest validation loss, and multiples of `keep_every`.

    A folder that cannot be removed, or that a process reads to draw with it, is left for the next time.
    """
    steps = folder.checkpoint_steps()
    kept = set(steps[-keep:]) | {step for step in steps if keep_every and step % keep_every == 0}
    losses = {step: loss for step in steps if (loss := _validation_loss(folder.checkpoint(step))) is not None}
    if losses:
        kept.add(min(losses, key=losses.__getitem__))
    for step in steps:
        if step not in kept:
            with contextlib.suppress(OSError):
                if not in_use_by_a_reader(folder.checkpoint(step)):
                    atomic.rename(folder.checkpoint(step), folder.checkpoints / f".trash-{uuid.uuid4().hex[:8]}")
    remove_leftovers(folder)


def restore_newest(
    folder: RunFolder, trainable: Trainable, check: Callable[[State], None], on_damage: Callable[[Path], None]
) -> State | None:
    """Load the newest whole checkpoint, bit for bit; newer, damaged ones are set aside and reported.

    `check` may refuse its state by raising. None if there is no checkpoint. Raises CheckpointError, and touches no
    file, when there are some and all are damaged, or when a later ditkit wrote the newest.
    """
    damaged: list[tuple[Path, CheckpointError]] = []
    for step in reversed(folder.checkpoint_steps()):
        path = folder.checkpoint(step)
        try:
            files = manifest.read(path)
            state = parse_state(path, manifest.read_file(path, "state.json", files))
            if state.step != step:
                raise CheckpointError(f"{path / 'state.json'} is of step {state.step}", "use the checkpoint before it")
            check(state)
            for name in trainable.tensors():
                # The content has no name of its own: it would stay in memory while the next file is read.
                tensors = safetensors.parse(manifest.read_file(path, name, files), path / name)
                load_file(trainable, name, tensors, path / name)
                del tensors
        except manifest.NewerFormat:
            raise
        except CheckpointError as error:
            damaged.append((path, error))
            continue
        # Set aside only now that an older one could be read: where all are damaged, no file is touched.
        for bad, _ in damaged:
            atomic.rename(bad, bad.with_name(f".corrupt-{bad.name}-{uuid.uuid4().hex[:8]}"))
            on_damage(bad)
        return state
    if damaged:
        raise CheckpointError(
            f"no checkpoint of {folder.path} is undamaged: {damaged[0][1].message}",
            "restore its files from a copy, or start another run with --fresh",
        )
    return None


def _validation_loss(path: Path) -> float | None:
    """The validation loss in a checkpoint's state, None where there is none or it cannot be read."""
    with contextlib.suppress(CheckpointError):
        return parse_state(path, manifest.read_file(path, "state.json")).validation_loss
    return None


def _contents(
    info: ModelInfo, state: State, trainable: Trainable
) -> Iterator[tuple[str, bytes | Iterator[bytes | memoryview]]]:
    """Name and content of each file, a tensor at a time."""
    for name, tensors in trainable.tensors().items():
        described = name in ("ema.safetensors", "model.safetensors")
        own = dataclasses.replace(info, weights=name.partition(".")[0]) if described else None
        yield name, safetensors.pieces(tensors, {METADATA_KEY: own.to_json()} if own else None)
    yield "state.json", dump_state(state)
