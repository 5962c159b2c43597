"""Checkpoints that are whole or absent, and loading one to sample from.

A checkpoint is a folder written under a temporary name, synced, described by a manifest of SHA-256 sums and renamed:
no moment of a crash leaves something that looks like a checkpoint and is not one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from torch import Tensor

from . import durable, manifest, tensor_files
from .autoencoders.contract import Autoencoder, open_autoencoder
from .card import KEY, Card, LatentStats, read_card
from .config import RunConfig
from .errors import CheckpointError, DataError, MachineError
from .latents import Codec
from .learner import Learner, check_shapes, checkpoint_bytes, fill, places
from .models.dit import DiT
from .recovery import Recovery
from .run_folder import RunFolder, find_weights, runs_dir, sweep

Length = Annotated[int, Field(ge=0, lt=2**63)]  # of a file, in bytes


@dataclass(frozen=True, kw_only=True)
class State:
    """What a checkpoint knows besides weights and optimiser."""

    step: int
    metrics_bytes: Length
    timing_bytes: Length
    incidents_bytes: Length = 0
    fingerprint: str
    labels: tuple[str, ...]
    versions: dict[str, str]  # of torch, numpy and Pillow
    device: str = "cpu"
    threads: int = 0
    processes: int = 1
    sharded: bool = False  # over the processes
    accumulate: int = 1  # parts that a process was asked to split its share of a batch into
    compiled: bool = False  # whether the network was
    parts: int = 1  # parts that it did split it into, for want of memory
    validation_loss: FiniteFloat | None = None  # measured at this very step
    images: int = 0  # of the data set; 0 in checkpoints of an earlier ditkit
    latents: LatentStats | None = None
    recovery: Recovery = field(default_factory=Recovery)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network ready to sample, with its card."""

    card: Card
    network: DiT
    codec: Codec
    source: Path


_STATE = TypeAdapter(State)


def build_network(config: RunConfig, labels: int) -> DiT:
    """The network of a config, with fresh weights drawn from torch's global generator."""
    channels, *size = config.shape
    return DiT(config.model, channels=channels, size=(size[0], size[1]), classes=labels)


def load(
    source: str | Path | None = None,
    *,
    ema: bool = True,
    device: str | torch.device = "cpu",
    autoencoder: str | Path | None = None,
) -> Trained:
    """The network of a run (by name or path, newest if None), a checkpoint folder or a weights file.

    `autoencoder` is a folder with that of the run, should it have moved. Raises CheckpointError when there is no
    checkpoint or it is damaged, DataError when the autoencoder is not to be had or another one.
    """
    path = find_weights(str(source) if source is not None else None, runs_dir(), ema=ema)
    card = read_card(path)
    codec = open_codec(card, device, autoencoder)
    return Trained(card=card, network=load_network(card, path).to(device), codec=codec, source=path)


def load_network(card: Card, path: Path) -> DiT:
    """The network of a weights file alone, float32, to look at only. Raises CheckpointError if it is damaged."""
    tensors = read_tensors(path)
    check_fits(card, tensors, path)
    network = build_network(card.config, len(card.labels))
    fill(network, tensors, path)
    return network.eval().requires_grad_(False)


def check_fits(card: Card, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError unless tensors are those of a card's network."""
    with torch.device("meta"):  # a card may ask for more memory than there is
        check_shapes(build_network(card.config, len(card.labels)), tensors, path)


def open_codec(card: Card, device: str | torch.device, place: str | Path | None = None) -> Codec:
    """What decodes the latents of a card's network. Raises DataError if its autoencoder is gone or another one."""
    config = card.config
    if place is not None:
        moved = dataclasses.replace(config.autoencoder, source=str(place), revision=None)
        config = dataclasses.replace(config, autoencoder=moved)
    autoencoder = open_autoencoder(config, device)
    check_same_autoencoder(autoencoder, card.latents)
    return Codec(autoencoder, card.latents)


def check_same_autoencoder(autoencoder: Autoencoder, stats: LatentStats | None) -> None:
    """Raise DataError if the latents were made by other weights; imported models do not say by which."""
    if stats and stats.autoencoder and autoencoder.fingerprint != stats.autoencoder:
        raise DataError(
            "the autoencoder's weights are not those that the network was trained with", "put those files back"
        )


def save(folder: RunFolder, *, card: Card, state: State, learner: Learner) -> Path:
    """Write one checkpoint durably; returns its folder. Raises MachineError when the disk does not take it.

    The older checkpoints stay until `prune`, so that a failure loses nothing.
    """
    final = folder.checkpoint(state.step)
    temporary = folder.checkpoints / f".tmp-{final.name}-{uuid.uuid4().hex[:8]}"
    try:
        durable.make_folder(folder.checkpoints)
        check_space(folder.checkpoints, checkpoint_bytes(learner), f"the checkpoint of step {state.step} needs")
        temporary.mkdir()
        files = {}
        for name, content in _contents(card, state, learner):
            files[name] = durable.write_synced(temporary / name, content)
        durable.write_synced(temporary / manifest.NAME, manifest.write(state.step, files))
        durable.sync_folder(temporary)
        if final.exists():  # a damaged one of this step that nobody has set aside
            durable.rename(final, folder.checkpoints / f".trash-{uuid.uuid4().hex[:8]}")
        durable.rename(temporary, final)
        durable.sync_folder(folder.checkpoints)
        durable.sync_folder(folder.path)  # the metrics' names, when they are new
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise MachineError(
                f"cannot save the checkpoint in {folder.checkpoints}: {error.strerror or error}",
                "free some space and run the same command again: it continues from the checkpoint before",
            ) from None
        raise
    return final


def check_space(place: Path, needed: int, what: str) -> None:
    """Raise MachineError unless `place`, or the folder that it will be made in, has `needed` bytes free."""
    existing = next(one for one in (place, *place.absolute().parents) if one.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise MachineError(
            f"{existing} has {free / 1e6:,.0f} MB free, but {what} {math.ceil(needed / 1e6):,} MB",
            "free some space, then run the same command again; or choose another --runs-dir",
        )


def prune(folder: RunFolder, keep: int, keep_every: int | None = None) -> None:
    """Remove old checkpoints; failing to is harmless.

    The newest `keep` stay, the one of the lowest validation loss, and those at multiples of `keep_every`.
    """
    steps = folder.checkpoint_steps()
    kept = set(steps[-keep:]) | {step for step in steps if keep_every and step % keep_every == 0}
    losses = {step: loss for step in steps if (loss := _validation_loss(folder.checkpoint(step))) is not None}
    if losses:
        kept.add(min(losses, key=losses.__getitem__))
    for step in steps:
        if step not in kept:
            with contextlib.suppress(OSError):
                durable.rename(folder.checkpoint(step), folder.checkpoints / f".trash-{uuid.uuid4().hex[:8]}")
    sweep(folder)


def restore_newest(
    folder: RunFolder, learner: Learner, check: Callable[[State], None], on_damage: Callable[[Path], None]
) -> State | None:
    """Put the newest whole checkpoint back, bit for bit; newer, damaged ones are set aside and reported.

    `check` may refuse its state. None if there is no checkpoint. Raises CheckpointError, and touches no file, when
    there are some and all are damaged, or when a later ditkit wrote the newest.
    """
    damaged: list[tuple[Path, CheckpointError]] = []
    for step in reversed(folder.checkpoint_steps()):
        path = folder.checkpoint(step)
        try:
            files = manifest.read(path)
            state = _parse_state(path, manifest.read_file(path, "state.json", files))
            if state.step != step:
                raise CheckpointError(f"{path / 'state.json'} is of step {state.step}", "use the checkpoint before it")
            check(state)
            for name, place in places(learner).items():
                place(tensor_files.parse(manifest.read_file(path, name, files), path / name), path / name)
        except manifest.NewerFormat:
            raise
        except CheckpointError as error:
            damaged.append((path, error))
            continue
        for one, _ in damaged:
            durable.rename(one, one.with_name(f".corrupt-{one.name}-{uuid.uuid4().hex[:8]}"))
            on_damage(one)
        return state
    if damaged:
        raise CheckpointError(
            f"no checkpoint of {folder.path} is undamaged: {damaged[0][1].message}",
            "restore its files from a copy, or start another run with --fresh",
        )
    return None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, on the CPU. Raises CheckpointError if it is damaged."""
    return tensor_files.parse(manifest.read_weights(path), path)


def _parse_state(path: Path, content: bytearray) -> State:
    try:
        return _STATE.validate_json(content, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{path / 'state.json'} is damaged ({where}: {first['msg']})", "use the checkpoint before it"
        ) from None


def _validation_loss(path: Path) -> float | None:
    """The validation loss in a checkpoint's state, None where there is none or it cannot be read."""
    with contextlib.suppress(CheckpointError):
        return _parse_state(path, manifest.read_file(path, "state.json")).validation_loss
    return None


def _contents(card: Card, state: State, learner: Learner) -> Iterator[tuple[str, bytes | Iterator[bytes | memoryview]]]:
    """Name and content of each file, a tensor at a time."""
    for name, tensors in learner.tensors().items():
        described = name in ("ema.safetensors", "model.safetensors")
        own = dataclasses.replace(card, weights=name.partition(".")[0]) if described else None
        yield name, tensor_files.pieces(tensors, {KEY: own.to_json()} if own else None)
    yield "state.json", _STATE.dump_json(state, indent=1)
