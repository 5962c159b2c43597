"""One run while it trains: its nouns, how they come out of a checkpoint, and how they go into one."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import nn

from . import checkpoint, optim, sharding
from .checkpoint import State
from .config import RunConfig
from .data.batches import Batches
from .data.contract import Dataset, open_dataset
from .device import find_dtype, place_of_batches
from .ema import Ema, PowerEmas
from .errors import DataError, MachineError, UsageError
from .evaluation.judge import Judge, open_judge
from .events import OnEvent, Warned
from .initial import first_latents, first_network, fresh_network
from .journal import Journal
from .latents import Codec
from .learner import Learner, checkpoint_bytes, empty_slots
from .material import Material, open_material
from .models.dit import DiT
from .objectives.contract import open_objective
from .peak import Gauge, open_gauge
from .power_ema import TRACKED
from .previews import ValidationSet
from .recovery import Recovery
from .run_folder import RunFolder, sweep
from .starting import IMAGES
from .steps import Speed, Worker, open_worker
from .threads import give_back_memory
from .world import World


@dataclass(kw_only=True)
class Session:
    """The nouns of one run while it trains."""

    config: RunConfig
    folder: RunFolder
    world: World
    labels: tuple[str, ...]
    images: int
    fingerprint: str
    worker: Worker
    learner: Learner
    ema: Ema
    batches: Batches
    validation: ValidationSet
    codec: Codec
    journal: Journal
    on_event: OnEvent
    gauge: Gauge
    judge: Judge | None = None  # in the leading process, if the run is to be judged while it trains
    step: int = 0  # steps done: the only progress there is
    recovery: Recovery = field(default_factory=Recovery)
    saved: int | None = None  # step of the newest checkpoint
    validated: tuple[int, float] | None = None  # step and validation loss
    bad: dict[str, None] = field(default_factory=dict)  # images that were replaced, as bad_files.txt lists them
    committing: bool = False  # weights are changing: not a moment to save

    @property
    def device(self) -> torch.device:
        return self.worker.device

    @property
    def dtype(self) -> torch.dtype:
        return self.worker.dtype

    @property
    def averages(self) -> PowerEmas:
        return self.learner.averages

    def whole(self, network: nn.Module) -> nn.Module:
        """A network to look at: itself, or a whole copy in the leading process. All processes must ask together."""
        if not self.learner.sharded:
            return network

        def build() -> DiT:
            return checkpoint.build_network(self.config, len(self.labels))

        return sharding.gathered(network, build, keep=self.world.leads) or network


def open_session(
    config: RunConfig,
    folder: RunFolder,
    world: World,
    on_event: OnEvent,
    device: torch.device,
    dtype_name: str = "auto",
    force_change: Collection[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
    speed: Speed = Speed(),
) -> Session:
    """Open the data, build the network and put the newest checkpoint back.

    Raises DataError when the images are not those that the run was started with, MachineError when the disk cannot
    hold the checkpoints, latent_cache.Interrupted when `should_stop` says so while latents are made.
    """
    if config.train.batch_size < world.size:
        raise UsageError(f"{world.size} processes share {config.train.batch_size} images", "raise --batch-size")
    dataset = open_dataset(config.data, "train")
    world.check_same(dataset.fingerprint, "images")
    objective = open_objective(config.diffusion)
    dtype = find_dtype(dtype_name, device)
    ema, learner = _learner(config, dataset.labels, folder, world, device, dtype, shard=speed.shard)

    state = _restore(config, folder, world, learner, dataset, on_event, force_change)
    known = state.latents if state else first_latents(config)
    material = open_material(config, dataset, device, stats=known, should_stop=should_stop)
    world.meet()  # machines that do not share their caches make latents at their own pace
    compiled = state.compiled if state else None
    worker, text = open_worker(
        config, learner.network, objective, device, dtype, world, speed, compiled, sharded=learner.sharded
    )
    if text:
        on_event(Warned(step=state.step if state else 0, text=text))
    session = Session(
        config=config,
        folder=folder,
        world=world,
        labels=dataset.labels,
        images=len(dataset),
        fingerprint=dataset.fingerprint,
        worker=worker,
        learner=learner,
        ema=ema,
        batches=_batches(config, material, world, device),
        validation=ValidationSet(material.validation, objective, config.seed),
        codec=material.codec,
        journal=Journal(folder, state, writes=world.leads),
        on_event=on_event,
        gauge=open_gauge(config, device, dtype, world.size),
        judge=_judge(config, dataset, world, device),
    )
    if state:
        _take_up(session, state, force_change)
    _open_bad_files(session, same_images=state is not None and state.fingerprint == dataset.fingerprint)
    return session


def _batches(config: RunConfig, material: Material, world: World, device: torch.device) -> Batches:
    """This process's share of each batch."""
    share, place = world.share(config.train.batch_size), place_of_batches(device, config.data.workers)
    return Batches(material.train, config.train.batch_size, config.seed, config.data.flip, share, place=place)


def _judge(config: RunConfig, dataset: Dataset, world: World, device: torch.device) -> Judge | None:
    """Opened before the first step: a package or weights that are missing are no news for the middle of a night."""
    if config.train.evaluate_every is None or not world.leads:
        return None
    return open_judge(config, device=device, dataset=dataset)


def _learner(
    config: RunConfig,
    labels: tuple[str, ...],
    folder: RunFolder,
    world: World,
    device: torch.device,
    dtype: torch.dtype,
    *,
    shard: bool,
) -> tuple[Ema, Learner]:
    """The network as a new run starts from it; one with a checkpoint needs no more of that than its shape."""
    begins = world.tell(world.leads and not folder.checkpoint_steps())
    network = first_network(config, labels, device) if begins else fresh_network(config, len(labels), device)
    sharded = shard and world.size > 1
    ema = Ema(network, config.optim.ema_decay)
    averages = PowerEmas(network, TRACKED if config.train.snapshot_every else ())
    if sharded:
        for one in (network, ema.network, *averages.networks.values()):
            sharding.shard(one, device, dtype)
    optimizer = optim.adamw(network, config.optim)
    return ema, Learner(network=network, ema=ema.network, optimizer=optimizer, averages=averages, sharded=sharded)


def _restore(
    config: RunConfig,
    folder: RunFolder,
    world: World,
    learner: Learner,
    dataset: Dataset,
    on_event: OnEvent,
    force_change: Collection[str],
) -> State | None:
    """Put the newest checkpoint back in all processes; the leading one alone touches the folder."""

    def check(state: State) -> None:
        if state.labels != dataset.labels:
            raise DataError(f"the labels have changed since {folder.path} was started", "start another with --fresh")
        if state.fingerprint != dataset.fingerprint and IMAGES not in force_change:
            raise DataError(
                f"the images have changed since {folder.path} was started",
                "put them back, go on with the new ones with --force-change images, or start another run with --fresh",
            )

    def tell(path: Path) -> None:
        text = f"{path} is damaged and set aside as .corrupt-*; using the checkpoint before it"
        on_event(Warned(step=0, text=text))

    state = checkpoint.restore_newest(folder, learner, check, tell) if world.leads else None
    if world.leads:
        sweep(folder)
        # One more than are kept, because an old one goes only when the new one is there.
        more = config.train.keep + 1 - min(len(folder.checkpoint_steps()), config.train.keep)
        checkpoint.check_space(folder.path, more * checkpoint_bytes(learner), f"{more} checkpoints need")
    world.meet()
    state = spread(world, learner, state)
    give_back_memory()  # of the files read: continuing must not need more than training did
    return state


def _take_up(session: Session, state: State, force_change: Collection[str]) -> None:
    """Continue where a state left off, and say what is not as it was."""
    session.step = session.saved = state.step
    session.recovery = state.recovery
    if any(key.startswith("diffusion.") for key in force_change):
        session.recovery = state.recovery.with_other_losses()
    now, warn = surroundings(session), lambda text: session.on_event(Warned(step=state.step, text=text))
    split, new = ((one["processes"], one["sharded"], one["accumulate"]) for one in (vars(state), now))
    if split == new:
        session.worker.parts = state.parts  # what fitted into memory
    else:
        warn(
            f"continuing with {_spelled(*new)} parts of a batch instead of {_spelled(*split)}: "
            "same images, noise and timesteps, only rounding differs"
        )
    for path in session.journal.shortened:
        warn(f"{path} is shorter than it was at step {state.step}; its missing rows are lost")
    before = {**state.versions, **{key: str(getattr(state, key)) for key in ("device", "threads", "compiled")}}
    after = {**now["versions"], **{key: str(now[key]) for key in ("device", "threads", "compiled")}}
    changed = [f"{key} {old} is now {after[key]}" for key, old in before.items() if after.get(key, old) != old]
    if changed:
        warn(f"{', '.join(changed)}: the run goes on, but may differ in the last bits from one that was never stopped")


def _spelled(processes: int, sharded: bool, accumulate: int) -> str:
    return f"{processes}{' sharded' if sharded else ''} × {accumulate}"


def surroundings(session: Session) -> dict[str, Any]:
    """What decides about the last bits, as a State has it."""
    return {
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "pillow": PIL.__version__},
        "device": str(session.device),
        "threads": torch.get_num_threads(),
        "processes": session.world.size,
        "sharded": session.learner.sharded,
        "accumulate": session.config.train.accumulate,
        "parts": session.worker.parts,
        "compiled": session.worker.compiled is not None,
    }


def spread(world: World, learner: Learner, state: State | None) -> State | None:
    """The leading process's state, weights and optimiser in all processes."""
    state = world.tell(state)
    if world.size == 1 or state is None:
        return state
    has_slots = world.tell(bool(learner.held.get("optimizer.safetensors") or learner.optimizer.state))
    if not has_slots:
        learner.optimizer.state.clear()
    elif not (world.leads and learner.optimizer.state):
        empty_slots(learner)
    hand_out(learner)
    return state


def hand_out(learner: Learner) -> None:
    """Fill all tensors from those that the leading process holds, or has in its own."""
    for file, tensors in learner.tensors().items():
        for name in sorted(tensors):
            sharding.take_from_first(tensors[name], learner.held.get(file, {}).get(name))
    learner.held.clear()


def _open_bad_files(session: Session, *, same_images: bool) -> None:
    """What is known of unreadable images, and of held-out ones; nothing of before when the images are others now."""
    place = session.folder.bad_files
    if session.world.leads and place.exists() and not same_images:
        place.unlink()
    elif session.world.leads and place.exists():
        lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
        session.bad = dict.fromkeys(line for line in lines if line)
    session.bad = session.world.tell(session.bad)
    if any(session.world.collect(bool(session.validation.bad))):
        note_bad(session, session.validation.bad)


def note_bad(session: Session, found: Mapping[int, str]) -> None:
    """List images that could not be read, of all processes. Raises DataError when they are too many."""
    every = (_line(why) for some in session.world.collect(dict(found)) for why in some.values())
    new = [why for why in dict.fromkeys(every) if why not in session.bad]
    session.bad |= dict.fromkeys(new)
    place = session.folder.bad_files
    if session.world.leads and new:
        try:
            with place.open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{why}\n" for why in new)
                os.fsync(file.fileno())
        except OSError as error:
            raise MachineError(f"cannot write {place}: {error.strerror}", "free some space, then run again") from None
        session.on_event(Warned(step=session.step, text=f"{new[0]}: another image takes its place; see {place}"))
    most = session.config.data.max_bad * session.images
    if len(session.bad) > most:
        last = list(session.bad)[-1]
        enough = min(1, max(0.05, math.ceil(200 * len(session.bad) / session.images) / 100))  # twice as many
        raise DataError(
            f"{len(session.bad)} of {session.images} images cannot be read, more than data.max_bad allows ({last})",
            f"they are listed in {place}, and `ditkit data show` finds all: mend or remove them, or allow more "
            f"with --set data.max_bad={enough:g}",
        )


def _line(text: str) -> str:
    """A text as one line of a UTF-8 file, the same when it is read back; names of files can be any bytes."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())
