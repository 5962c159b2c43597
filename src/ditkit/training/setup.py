"""Open data, network, newest checkpoint -> TrainingSession."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from .. import optim
from ..checkpoint import store
from ..checkpoint.tensors import Trainable, broadcast_state, checkpoint_bytes
from ..config import RunConfig
from ..data.balance import balanced
from ..data.batches import Batches, Reader
from ..data.contract import Dataset, Datasets, open_datasets
from ..data.notes import notes
from ..data.resident import batch_target
from ..data.settle import settled_by
from ..ema import TRACKED, Ema, PowerEmas
from ..errors import UsageError
from ..estimation.preflight import check_needs, disk_remark
from ..evaluation.judge import Judge, open_judge
from ..events import OnEvent, Warned
from ..io import paths
from ..kernels.for_run import agreed_dtype, choose_for_run
from ..kernels.update import WeightUpdate
from ..objectives.contract import open_objective
from ..runs.folder import RunFolder, remove_leftovers
from ..runs.logs import RunLogs
from ..runs.resume import check_same_run
from ..runs.run_state import State
from ..runs.same_images import check_same_images
from ..runtime import fsdp
from ..runtime.distributed import ProcessGroup
from ..runtime.load import LoadWatch
from ..runtime.peak_flops import open_utilization
from ..runtime.threads import give_back_memory
from .bad_images import open_bad_images
from .init_weights import first_latents, first_network, fresh_network
from .session import TrainingSession, environment
from .step import SpeedOptions, open_step_context
from .training_data import open_training_data
from .validation_set import ValidationSet


def open_session(
    config: RunConfig,
    folder: RunFolder,
    group: ProcessGroup,
    on_event: OnEvent,
    device: torch.device,
    dtype_name: str = "auto",
    force_change: Collection[str] = (),
    should_stop: Callable[[], bool] = lambda: False,
    speed: SpeedOptions = SpeedOptions(),
    datasets: Datasets | None = None,
    until: float = math.inf,
) -> TrainingSession:
    """Open the data unless the caller has, build the network and load the newest checkpoint.

    Raises DataError when the images are not those that the run was started with, MachineError when the disk cannot
    hold the checkpoints, latents.cache.Interrupted when `should_stop` becomes true while latents are encoded.
    """
    if config.train.batch_size < group.size:
        raise UsageError(f"{group.size} processes share a batch of {config.train.batch_size}", "raise --batch-size")
    datasets = datasets or _open_datasets(config, on_event)
    dataset, config = datasets.train, settled_by(config, datasets.train)
    group.require_same(dataset.fingerprint, "images")
    objective, dtype = open_objective(config.diffusion), agreed_dtype(dtype_name, device, group)
    check_needs(config, dataset.labels, objective.process)
    ema, trainable = _open_trainable(config, dataset.labels, folder, group, device, dtype, shard=speed.shard)
    state = _restore(config, folder, group, trainable, dataset, on_event, force_change)
    # After the checkpoint: a run that continues has the statistics of its latents from there.
    stats = state.latents if state else first_latents(config, lambda text: on_event(Warned(step=0, text=text)), folder)
    data = open_training_data(config, datasets, device, stats=stats, should_stop=should_stop)
    group.barrier()  # machines that do not share their caches encode latents at their own pace
    compute = choose_for_run(config, device, dtype_name, speed, state, group).equip(ema.network)
    before = state.compiled_on(device.type) if state else None
    context, why = open_step_context(config, trainable.network, objective, device, compute, group, speed, before, until)
    if why:
        on_event(Warned(step=state.step if state else 0, text=why))
    session = TrainingSession(
        config=config,
        folder=folder,
        group=group,
        labels=dataset.labels,
        images=len(dataset),
        fingerprint=dataset.fingerprint,
        step_context=context,
        trainable=trainable,
        update=_weight_update(config, trainable, ema, device),
        batches=_batches(config, data.train, group, device),
        validation=ValidationSet(data.validation, objective, config.seed),
        codec=data.codec,
        logs=RunLogs(folder, state, writes=group.is_main),
        on_event=on_event,
        load=LoadWatch(group) if speed.follow_load and device.type == "cpu" else None,
        utilization=open_utilization(config, device, compute.dtype, group.size),
        judge=_open_judge(config, device, dataset) if group.is_main else None,
    )
    if state:
        _continue_from(session, state, force_change)
    open_bad_images(session, same_images=state is not None and state.fingerprint == dataset.fingerprint)
    return session


def _open_datasets(config: RunConfig, on_event: OnEvent) -> Datasets:
    """Both data sets of a run that is trained in Python, which hears what is to be said about them."""
    datasets = open_datasets(config.data)
    for text in notes(datasets.train, config.data):
        on_event(Warned(step=0, text=text))
    return datasets


def _batches(config: RunConfig, train: Dataset | Reader, group: ProcessGroup, device: torch.device) -> Batches:
    """This process's share of every batch."""
    share, target = group.shard(config.train.batch_size), batch_target(device, config.data.workers)
    images = balanced(config, train)
    return Batches(images, config.train.batch_size, config.seed, config.data.flip, share, place=target)


def _open_trainable(
    config: RunConfig,
    labels: tuple[str, ...],
    folder: RunFolder,
    group: ProcessGroup,
    device: torch.device,
    dtype: torch.dtype,
    *,
    shard: bool,
) -> tuple[Ema, Trainable]:
    """The network as a new run starts from it; of one with a checkpoint only the shapes matter."""
    is_new = group.broadcast(group.is_main and not folder.checkpoint_steps())
    network = first_network(config, labels, device, folder) if is_new else fresh_network(config, len(labels), device)
    sharded = shard and group.size > 1
    ema = Ema(network, config.optim.ema_decay)
    averages = PowerEmas(network, TRACKED if config.train.snapshot_every else ())
    if sharded:
        for module in (network, ema.network, *averages.networks.values()):
            fsdp.shard(module, device, dtype)
    # After sharding, which replaces the parameters that the optimiser must know.
    optimizer = optim.adamw(network, config.optim)
    return ema, Trainable(network=network, ema=ema.network, optimizer=optimizer, averages=averages, sharded=sharded)


def _weight_update(config: RunConfig, trainable: Trainable, ema: Ema, device: torch.device) -> WeightUpdate:
    ahead = device.type == "cuda" and not trainable.sharded
    return WeightUpdate(trainable.network, trainable.optimizer, ema, trainable.averages, config.optim.clip, ahead=ahead)


def _open_judge(config: RunConfig, device: torch.device, dataset: Dataset) -> Judge | None:
    """Opened before the first step, so that a missing package or file is reported now and not after hours."""
    return None if config.train.evaluate_every is None else open_judge(config, device=device, dataset=dataset)


def _restore(
    config: RunConfig,
    folder: RunFolder,
    group: ProcessGroup,
    trainable: Trainable,
    dataset: Dataset,
    on_event: OnEvent,
    force_change: Collection[str],
) -> State | None:
    """Load the newest checkpoint in all processes; only the main one touches the folder."""

    def check(state: State) -> None:
        check_same_run(config, folder.checkpoint(state.step), force_change)
        check_same_images(state, dataset, folder, config, force_change)

    def warn(path: Path) -> None:
        text = f"{path} is damaged and set aside as .corrupt-*; using the checkpoint before it"
        on_event(Warned(step=0, text=text))

    state = store.restore_newest(folder, trainable, check, warn) if group.is_main else None
    if group.is_main:
        remove_leftovers(folder)
        # One more than are kept, because an old one goes only when the new one is there.
        more = config.train.keep + 1 - min(len(folder.checkpoint_steps()), config.train.keep)
        paths.check_space(folder.path, more * checkpoint_bytes(trainable), f"{more} checkpoints need")
        if state is None and (text := disk_remark(config, len(dataset.labels), len(dataset), folder.path)):
            on_event(Warned(step=0, text=text))
    group.barrier()  # here a failure of the main process is reported; within a broadcast the others would wait in vain
    state = broadcast_state(group, trainable, state)
    give_back_memory()  # of the files read: continuing must not need more than training did
    return state


def _continue_from(session: TrainingSession, state: State, force_change: Collection[str]) -> None:
    """Continue where a state left off, and warn of what is not as it was."""
    session.step = session.saved = state.step
    session.loss_health, session.replaced = state.recovery, set(state.replaced)
    if any(key.startswith("diffusion.") for key in force_change):
        session.loss_health = state.recovery.with_other_losses()
    now = environment(session)

    def warn(text: str) -> None:
        session.on_event(Warned(step=state.step, text=text))

    old, new = ((values["processes"], values["sharded"], values["accumulate"]) for values in (vars(state), now))
    session.step_context.noise_on_device = state.noise_on_device
    if old == new and state.ran_on(session.device.type):
        session.step_context.micro_batches = state.parts  # what fitted into memory
    elif old != new:
        warn(
            f"continuing with {_format_split(*new)} parts of a batch instead of {_format_split(*old)}: "
            "same images, noise and timesteps, only rounding differs"
        )
    for path in session.logs.lost_rows:
        warn(f"{path} is shorter than it was at step {state.step}; its missing rows are lost")
    # As strings, so that versions, numbers and yes or no are compared and printed in one way.
    keys = ("device", "threads", "compiled", "kernels", *(["dtype"] if state.dtype else []))
    before = {**state.versions, **{key: str(getattr(state, key)) for key in keys}}
    after = {**now["versions"], **{key: str(now[key]) for key in keys}}
    changed = [f"{key} {value} is now {after[key]}" for key, value in before.items() if after.get(key, value) != value]
    if changed:
        other = state.noise_on_device and any(text.startswith(("device", "gpu")) for text in changed)
        but = "draws other noise" if other else "may differ in the last bits from one that was never stopped"
        warn(f"{', '.join(changed)}: the run goes on, but {but}")


def _format_split(processes: int, sharded: bool, accumulate: int) -> str:
    return f"{processes}{' sharded' if sharded else ''} × {accumulate}"
