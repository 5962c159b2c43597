"""Checkpoint of a session; EMA snapshots."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checkpoint import posthoc_ema, store
from ..checkpoint.tensors import gather
from ..events import Saved
from ..runs.model_info import Card
from ..runs.run_state import State
from ..runtime.fsdp import whole
from .session import Session, surroundings


def save(session: Session) -> None:
    """Write the checkpoint of this step durably, then drop the oldest; all processes take part."""
    if session.saved == session.step or session.step == 0:
        return
    if session.world.leads:
        _write(session)
    elif session.learner.sharded:
        gather(session.learner)
    session.saved = session.step
    session.world.meet()


def keep(session: Session) -> None:
    """Save in an emergency, if this process can without the others and it is a moment to."""
    alone = session.world.leads and not session.learner.sharded
    if alone and not session.committing and session.step not in (0, session.saved):
        _write(session)
        session.saved = session.step


def _write(session: Session) -> None:
    at_this_step = session.validated is not None and session.validated[0] == session.step
    with session.world.undisturbed():
        path = store.save(
            session.folder,
            card=Card(config=session.config, labels=session.labels, step=session.step, latents=session.codec.stats),
            state=State(
                step=session.step,
                **session.journal.sync(),
                fingerprint=session.fingerprint,
                images=session.images,
                labels=session.labels,
                **surroundings(session),
                validation_loss=session.validated[1] if session.validated and at_this_step else None,
                recovery=session.recovery,
                latents=session.codec.stats,
            ),
            learner=session.learner,
        )
    session.on_event(Saved(step=session.step, path=path))
    store.prune(session.folder, session.config.train.keep, session.config.train.keep_every)


def take_snapshot(session: Session) -> None:
    """Keep the averages of this step in half precision, to make others of them; all processes take part."""
    tensors: dict[str, Tensor] = {}
    for name, value in session.averages.tensors():
        full = whole(value)
        if session.world.leads:
            tensors[name] = full.to("cpu", torch.float16)
    if session.world.leads:
        posthoc_ema.write_snapshot(session.folder, session.step, tensors)
    session.world.meet()
