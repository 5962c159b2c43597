"""Open data, network, newest checkpoint -> TrainingSession."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .. import optim
from ..autoencoders.contract import open_autoencoder
from ..checkpoint import store
from ..checkpoint.loading import check_same_autoencoder
from ..checkpoint.tensors import Trainable, checkpoint_bytes
from ..config import RunConfig
from ..data.batches import Batches, Reader
from ..data.contract import Dataset, Datasets, Split, open_datasets
from ..data.resident import batch_target
from ..ema import TRACKED, Ema, PowerEmas
from ..errors import DataError, MachineError, UsageError
from ..evaluation.judge import Judge, open_judge
from ..events import OnEvent, Warned
from ..io import paths
from ..latents.cache import Latents, LatentSpec, open_latents
from ..latents.codec import Codec
from ..latents.reader import LatentReader
from ..models.size import flops
from ..objectives.contract import open_objective
from ..runs.folder import RunFolder, remove_leftovers
from ..runs.logs import RunLogs
from ..runs.model_info import LatentStats
from ..runs.resume import IMAGES
from ..runs.run_state import State
from ..runtime import fsdp
from ..runtime.device import find_dtype
from ..runtime.distributed import ProcessGroup
from ..runtime.peak_flops import Utilization, peak_flops
from ..runtime.threads import give_back_memory
from .init_weights import first_latents, first_network, fresh_network
from .session import TrainingSession, broadcast_state, environment
from .step import SpeedOptions, open_step_context
from .validation_set import Cases, ValidationSet, pixel_cases


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Images as the network sees them."""

    train: Dataset | Reader
    validation: Cases
    codec: Codec


def open_training_data(
    config: RunConfig,
    datasets: Datasets,
    device: torch.device,
    *,
    stats: LatentStats | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainingData:
    """The images of `datasets` as the network sees them; latents are made where they are wanted.

    `stats` are those of a run that goes on, or of the model that it begins with; without them they are measured.
    Raises latent_cache.Interrupted when `should_stop` says so while latents are made, DataError for other autoencoder
    weights than the run's.
    """
    dataset, held_out = datasets.train, datasets.validation
    autoencoder = open_autoencoder(config, device)
    if config.autoencoder.name == "pixel":
        cases = pixel_cases(held_out, range(len(held_out)))
        return TrainingData(train=dataset, validation=cases, codec=Codec(autoencoder, None))
    check_same_autoencoder(autoencoder, stats)
    if stats:  # those of an imported model do not say whose they are; from now on they do
        stats = replace(stats, autoencoder=autoencoder.fingerprint)

    def latents(images: Dataset, split: Split) -> Latents:
        recipe = LatentSpec(
            dataset=images,
            split=split,
            config=config,
            autoencoder=autoencoder,
            device=device,
            should_stop=should_stop,
        )
        return open_latents(recipe)

    train = latents(dataset, "train")
    stats = stats or train.statistics(autoencoder.fingerprint)
    validation = LatentReader(latents(held_out, "validation"), stats, config.seed) if len(held_out) else None
    return TrainingData(
        train=LatentReader(train, stats, config.seed),
        validation=validation.all_means() if validation else pixel_cases(held_out, ()),
        codec=Codec(autoencoder, stats),
    )


def open_utilization(config: RunConfig, device: torch.device, dtype: torch.dtype, processes: int = 1) -> Utilization:
    """The gauge of a run; on a CPU the first one of a process measures the peak, in a few tenths of a second."""
    one = peak_flops(device, dtype)
    return Utilization(image_flops=3 * forward_flops(config), peak=one * processes if one else None)


def forward_flops(config: RunConfig) -> int:
    """Floating-point operations of one image's forward pass: two for each multiply-add."""
    channels, height, width = config.shape
    return 2 * flops(config.model, channels=channels, size=(height, width))


def open_session(
    config: RunConfig,
    folder: RunFolder,
    world: ProcessGroup,
    on_event: OnEvent,
    device: torch.device,
    dtype_name: str = "auto",
    force_change: Collection[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
    speed: SpeedOptions = SpeedOptions(),
    datasets: Datasets | None = None,
) -> TrainingSession:
    """Open the data where nobody has, build the network and put the newest checkpoint back.

    Raises DataError when the images are not those that the run was started with, MachineError when the disk cannot
    hold the checkpoints, latent_cache.Interrupted when `should_stop` says so while latents are made.
    """
    if config.train.batch_size < world.size:
        raise UsageError(f"{world.size} processes share {config.train.batch_size} images", "raise --batch-size")
    datasets = datasets or open_datasets(config.data)
    dataset = datasets.train
    world.require_same(dataset.fingerprint, "images")
    objective = open_objective(config.diffusion)
    dtype = find_dtype(dtype_name, device)
    ema, learner = _open_trainable(config, dataset.labels, folder, world, device, dtype, shard=speed.shard)

    state = _restore(config, folder, world, learner, dataset, on_event, force_change)
    known = state.latents if state else first_latents(config)
    material = open_training_data(config, datasets, device, stats=known, should_stop=should_stop)
    world.barrier()  # machines that do not share their caches make latents at their own pace
    compiled = state.compiled if state else None
    worker, text = open_step_context(
        config, learner.network, objective, device, dtype, world, speed, compiled, sharded=learner.sharded
    )
    if text:
        on_event(Warned(step=state.step if state else 0, text=text))
    session = TrainingSession(
        config=config,
        folder=folder,
        group=world,
        labels=dataset.labels,
        images=len(dataset),
        fingerprint=dataset.fingerprint,
        step_context=worker,
        trainable=learner,
        ema=ema,
        batches=_batches(config, material, world, device),
        validation=ValidationSet(material.validation, objective, config.seed),
        codec=material.codec,
        logs=RunLogs(folder, state, writes=world.is_main),
        on_event=on_event,
        utilization=open_utilization(config, device, dtype, world.size),
        judge=_judge(config, dataset, world, device),
    )
    if state:
        _continue_from(session, state, force_change)
    _open_bad_files(session, same_images=state is not None and state.fingerprint == dataset.fingerprint)
    return session


def _batches(config: RunConfig, material: TrainingData, world: ProcessGroup, device: torch.device) -> Batches:
    """This process's share of each batch."""
    share, place = world.shard(config.train.batch_size), batch_target(device, config.data.workers)
    return Batches(material.train, config.train.batch_size, config.seed, config.data.flip, share, place=place)


def _judge(config: RunConfig, dataset: Dataset, world: ProcessGroup, device: torch.device) -> Judge | None:
    """Opened before the first step: a package or weights that are missing are no news for the middle of a night."""
    if config.train.evaluate_every is None or not world.is_main:
        return None
    return open_judge(config, device=device, dataset=dataset)


def _open_trainable(
    config: RunConfig,
    labels: tuple[str, ...],
    folder: RunFolder,
    world: ProcessGroup,
    device: torch.device,
    dtype: torch.dtype,
    *,
    shard: bool,
) -> tuple[Ema, Trainable]:
    """The network as a new run starts from it; one with a checkpoint needs no more of that than its shape."""
    begins = world.broadcast(world.is_main and not folder.checkpoint_steps())
    network = first_network(config, labels, device) if begins else fresh_network(config, len(labels), device)
    sharded = shard and world.size > 1
    ema = Ema(network, config.optim.ema_decay)
    averages = PowerEmas(network, TRACKED if config.train.snapshot_every else ())
    if sharded:
        for one in (network, ema.network, *averages.networks.values()):
            fsdp.shard(one, device, dtype)
    optimizer = optim.adamw(network, config.optim)
    return ema, Trainable(network=network, ema=ema.network, optimizer=optimizer, averages=averages, sharded=sharded)


def _restore(
    config: RunConfig,
    folder: RunFolder,
    world: ProcessGroup,
    learner: Trainable,
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

    state = store.restore_newest(folder, learner, check, tell) if world.is_main else None
    if world.is_main:
        remove_leftovers(folder)
        # One more than are kept, because an old one goes only when the new one is there.
        more = config.train.keep + 1 - min(len(folder.checkpoint_steps()), config.train.keep)
        paths.check_space(folder.path, more * checkpoint_bytes(learner), f"{more} checkpoints need")
    world.barrier()
    state = broadcast_state(world, learner, state)
    give_back_memory()  # of the files read: continuing must not need more than training did
    return state


def _continue_from(session: TrainingSession, state: State, force_change: Collection[str]) -> None:
    """Continue where a state left off, and say what is not as it was."""
    session.step = session.saved = state.step
    session.loss_health = state.recovery
    if any(key.startswith("diffusion.") for key in force_change):
        session.loss_health = state.recovery.with_other_losses()
    now, warn = environment(session), lambda text: session.on_event(Warned(step=state.step, text=text))
    split, new = ((one["processes"], one["sharded"], one["accumulate"]) for one in (vars(state), now))
    if split == new:
        session.step_context.micro_batches = state.parts  # what fitted into memory
    else:
        warn(
            f"continuing with {_split_in_words(*new)} parts of a batch instead of {_split_in_words(*split)}: "
            "same images, noise and timesteps, only rounding differs"
        )
    for path in session.logs.lost_rows:
        warn(f"{path} is shorter than it was at step {state.step}; its missing rows are lost")
    before = {**state.versions, **{key: str(getattr(state, key)) for key in ("device", "threads", "compiled")}}
    after = {**now["versions"], **{key: str(now[key]) for key in ("device", "threads", "compiled")}}
    changed = [f"{key} {old} is now {after[key]}" for key, old in before.items() if after.get(key, old) != old]
    if changed:
        warn(f"{', '.join(changed)}: the run goes on, but may differ in the last bits from one that was never stopped")


def _split_in_words(processes: int, sharded: bool, accumulate: int) -> str:
    return f"{processes}{' sharded' if sharded else ''} × {accumulate}"


def _open_bad_files(session: TrainingSession, *, same_images: bool) -> None:
    """What is known of unreadable images, and of held-out ones; nothing of before when the images are others now."""
    place = session.folder.bad_files
    if session.group.is_main and place.exists() and not same_images:
        place.unlink()
    elif session.group.is_main and place.exists():
        lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
        session.bad = dict.fromkeys(line for line in lines if line)
    session.bad = session.group.broadcast(session.bad)
    if any(session.group.all_gather(bool(session.validation.bad))):
        note_bad(session, session.validation.bad)


def note_bad(session: TrainingSession, found: Mapping[int, str]) -> None:
    """List images that could not be read, of all processes. Raises DataError when they are too many."""
    every = (_line(why) for some in session.group.all_gather(dict(found)) for why in some.values())
    new = [why for why in dict.fromkeys(every) if why not in session.bad]
    session.bad |= dict.fromkeys(new)
    place = session.folder.bad_files
    if session.group.is_main and new:
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
