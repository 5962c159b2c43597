"""Checkpoint of a session; EMA snapshots."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checkpoint import posthoc_ema, store
from ..checkpoint.tensors import gather
from ..events import Saved, Warned
from ..io.text import shell_words
from ..runs.folder import FolderLostError, check_ours, is_ours, rescue_folder
from ..runs.model_info import ModelInfo
from ..runs.run_state import State
from ..runtime.fsdp import full_tensor
from ..runtime.peak_flops import open_utilization
from ..runtime.transfer import answers
from ..runtime.watchdog import GRACE
from .session import TrainingSession, environment


def save(session: TrainingSession) -> None:
    """Write the checkpoint of this step durably, then remove the oldest. All processes must call it together."""
    if session.saved == session.step or session.step == 0:
        return
    # Where memory ran out in one of them, all split alike from here on, as they will when the run is continued.
    session.step_context.micro_batches = max(session.group.all_gather(session.step_context.micro_batches))
    if session.group.is_main:
        _write(session)
    elif session.trainable.sharded:
        gather(session.trainable)  # the main process asks for whole tensors, in the same order
    session.saved = session.step
    session.group.barrier()


def follow_load(session: TrainingSession) -> None:
    """Compute with other threads if the load has changed: before saving, as a checkpoint has those of the next step."""
    text = session.load.adapt() if session.load and session.step < session.config.train.steps else None
    if text:
        again = ", for which the network is compiled" if session.step_context.compiled else ""
        session.on_event(Warned(step=session.step, text=text + again))
        session.utilization = open_utilization(
            session.config, session.device, session.compute.dtype, session.group.size
        )


def emergency_save(session: TrainingSession) -> None:
    """Save before the run ends with an error, if this process can without the others and weights and logs agree."""
    can = session.group.is_main and not session.trainable.sharded and session.step not in (0, session.saved)
    # After another process was lost, CUDA may wait for it for ever, and so would whoever copies weights.
    if can and not session.committing and answers(session.device, GRACE):
        _write(session)
        session.saved = session.step


def _write(session: TrainingSession) -> None:
    """Into the run's folder; where that was moved or replaced, into a new one, and then raise FolderLostError."""
    at_this_step = session.validated is not None and session.validated[0] == session.step
    folder, lost = session.folder, not is_ours(session.folder)
    with session.group.uninterruptible():
        if lost:
            folder = rescue_folder(folder, session.config)
        session.logs.move_to(folder)
        path = store.save(
            folder,
            info=ModelInfo(
                config=session.config, labels=session.labels, step=session.step, latents=session.codec.stats
            ),
            state=State(
                step=session.step,
                **session.logs.sync(),
                fingerprint=session.fingerprint,
                images=session.images,
                labels=session.labels,
                **environment(session),
                validation_loss=session.validated[1] if session.validated and at_this_step else None,
                recovery=session.loss_health,
                latents=session.codec.stats,
                replaced=tuple(sorted(session.replaced)),
            ),
            trainable=session.trainable,
        )
    if lost:
        session.saved = session.step
        hint = f"step {session.step} is saved in {folder.path}: `ditkit train {shell_words(str(folder.path))}` goes on"
        raise FolderLostError(session.folder, hint)
    session.on_event(Saved(step=session.step, path=path))
    store.prune(session.folder, session.config.train.keep, session.config.train.keep_every)


def take_snapshot(session: TrainingSession) -> None:
    """Write the averages of this step in half precision, for averages of other lengths; all call it together."""
    tensors: dict[str, Tensor] = {}
    for name, value in session.trainable.averages.tensors():
        full = full_tensor(value)
        if session.group.is_main:
            tensors[name] = full.to("cpu", torch.float16)
    if session.group.is_main:
        check_ours(session.folder)
        posthoc_ema.write_snapshot(session.folder, session.step, tensors)
    session.group.barrier()
