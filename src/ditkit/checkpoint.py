"""Checkpoints that are whole or absent, and loading one to sample from.

A checkpoint is a folder written under a temporary name, synced, described by a manifest of SHA-256 sums and renamed:
no moment of a crash leaves something that looks like a checkpoint and is not one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from .card import KEY, Card, read_card
from .config import RunConfig
from .errors import DitkitError
from .models.dit import DiT
from .run_folder import CHECKPOINT_FILES, MANIFEST, RunFolder, find_weights, runs_dir


@dataclass(frozen=True, kw_only=True)
class State:
    """What a checkpoint knows besides weights and optimiser."""

    step: int
    metrics_bytes: int
    timing_bytes: int
    fingerprint: str
    labels: tuple[str, ...]
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network ready to sample, with its card."""

    card: Card
    network: DiT
    source: Path


def build_network(config: RunConfig, labels: int) -> DiT:
    """The network of a config, with fresh weights drawn from torch's global generator."""
    return DiT(config.model, channels=config.data.channels, size=config.data.image_size, classes=labels)


def load(source: str | Path | None = None, *, ema: bool = True, device: str | torch.device = "cpu") -> Trained:
    """The network of a run (by name or path, newest if None), a checkpoint folder or a weights file.

    Raises DitkitError when there is none or it is damaged.
    """
    path = find_weights(str(source) if source is not None else None, runs_dir(), ema=ema)
    card = read_card(path)
    _check_sum(path)
    network = build_network(card.config, len(card.labels))
    fill(network, read_tensors(path), path)
    return Trained(card=card, network=network.to(device).eval().requires_grad_(False), source=path)


def save(
    folder: RunFolder,
    *,
    card: Card,
    state: State,
    network: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Path:
    """Write one checkpoint durably; returns its folder. Raises DitkitError when the disk does not take it.

    The older checkpoints stay until `prune`, so that a failure loses nothing.
    """
    final = folder.checkpoint(state.step)
    temporary = folder.checkpoints / f".tmp-{final.name}-{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        _write_tensors(temporary / "ema.safetensors", ema.state_dict(), dataclasses.replace(card, weights="ema"))
        _write_tensors(
            temporary / "model.safetensors", network.state_dict(), dataclasses.replace(card, weights="model")
        )
        _write_tensors(temporary / "optimizer.safetensors", _optimizer_tensors(network, optimizer), None)
        _write_bytes(temporary / "state.json", _json(dataclasses.asdict(state)))
        sums = {name: _describe(temporary / name) for name in CHECKPOINT_FILES}
        _write_bytes(temporary / MANIFEST, _json({"format": 1, "step": state.step, "files": sums}))
        _sync_folder(temporary)
        if final.exists():  # the same step again, after --steps moved the end: the older twin goes
            shutil.rmtree(final)
        temporary.rename(final)
        _sync_folder(folder.checkpoints)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise DitkitError(
            f"cannot save the checkpoint in {folder.checkpoints}: {error.strerror or error}",
            "free some space and run the same command again: it continues from the checkpoint before",
        ) from None
    return final


def prune(folder: RunFolder, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what a crash left behind; failing to is harmless."""
    for step in folder.checkpoint_steps()[:-keep]:
        trash = folder.checkpoints / f".trash-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(OSError):
            folder.checkpoint(step).rename(trash)
    for pattern in (".tmp-*", ".trash-*"):
        for path in folder.checkpoints.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def newest_state(
    folder: RunFolder, on_damage: Callable[[Path], None] = lambda _path: None
) -> tuple[Path, State] | None:
    """The newest checkpoint whose files are all as the manifest says; newer, damaged ones are set aside and reported.

    None if there is no checkpoint. Raises DitkitError, and touches nothing, when there are some and all are damaged.
    """
    damaged: list[Path] = []
    for step in reversed(folder.checkpoint_steps()):
        path = folder.checkpoint(step)
        try:
            verify(path)
            state = _read_state(path)
        except DitkitError:
            damaged.append(path)
            continue
        for one in damaged:
            one.rename(one.with_name(f".corrupt-{one.name}-{uuid.uuid4().hex[:8]}"))
            on_damage(one)
        return path, state
    if damaged:
        raise DitkitError(
            f"no checkpoint of {folder.path} is undamaged (newest: {damaged[0]})",
            "restore its files from a copy, or start another run with --fresh",
        )
    return None


def verify(path: Path) -> None:
    """Raise DitkitError unless every file of a checkpoint has the size and SHA-256 of its manifest."""
    try:
        files = json.loads((path / MANIFEST).read_bytes())["files"]
        damaged = [name for name in CHECKPOINT_FILES if _describe(path / name) != files[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DitkitError(f"{path} is damaged ({error})", "use the checkpoint before it") from None
    if damaged:
        raise DitkitError(f"{path / damaged[0]} is damaged (its checksum differs)", "use the checkpoint before it")


def _check_sum(path: Path) -> None:
    """Raise DitkitError if a manifest lies beside a weights file and says that it was another."""
    try:
        expected = json.loads((path.parent / MANIFEST).read_bytes())["files"][path.name]
    except (OSError, ValueError, KeyError, TypeError):
        return  # a weights file on its own
    if _describe(path) != expected:
        raise DitkitError(f"{path} is damaged (its checksum differs)", "use another checkpoint")


def restore(path: Path, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a verified checkpoint's weights, EMA and optimiser state back, bit for bit."""
    fill(network, read_tensors(path / "model.safetensors"), path / "model.safetensors")
    fill(ema, read_tensors(path / "ema.safetensors"), path / "ema.safetensors")
    tensors = read_tensors(path / "optimizer.safetensors")
    for name, parameter in network.named_parameters():
        slots = {slot: tensors[f"{name}|{slot}"] for slot in ("exp_avg", "exp_avg_sq", "step")}
        optimizer.state[parameter] = {slot: value.to(parameter.device) for slot, value in slots.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, on the CPU. Raises DitkitError if it is damaged."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise DitkitError(f"cannot read {path}: {error.strerror}", "check the path") from None
    except SafetensorError as error:
        raise DitkitError(f"{path} is damaged ({error})", "use another checkpoint") from None


def fill(network: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load tensors into a network of exactly these names and shapes. Raises DitkitError otherwise."""
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != given:
        wrong = sorted(set(wanted.items()) ^ set(given.items()))[0][0]
        raise DitkitError(f"{source} does not fit its own card (at {wrong})", "use another checkpoint")
    network.load_state_dict(dict(tensors))


def _optimizer_tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}|{slot}": value.detach().cpu()
        for name, parameter in network.named_parameters()
        for slot, value in optimizer.state[parameter].items()
    }


def _read_state(path: Path) -> State:
    try:
        tree = json.loads((path / "state.json").read_bytes())
        return State(**{**tree, "labels": tuple(tree["labels"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DitkitError(f"{path / 'state.json'} is damaged ({error})", "use the checkpoint before it") from None


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], card: Card | None) -> None:
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    _write_bytes(path, safetensors.torch.save(plain, {KEY: card.to_json()} if card else None))


def _write_bytes(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _json(tree: Mapping[str, Any]) -> bytes:
    return json.dumps(tree, indent=1, sort_keys=True, allow_nan=False).encode("utf-8")


def _describe(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _sync_folder(path: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
