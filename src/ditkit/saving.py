"""Checkpoints of a session: written by one process with the help of all, and gone back to."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checkpoint, post_hoc
from .card import Card
from .checkpoint import State
from .events import Saved
from .initial import first_network
from .learner import gather
from .recovery import Recovery
from .session import Session, hand_out, spread, surroundings
from .sharding import whole


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
        path = checkpoint.save(
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
    checkpoint.prune(session.folder, session.config.train.keep, session.config.train.keep_every)


def take_snapshot(session: Session) -> None:
    """Keep the averages of this step in half precision, to make others of them; all processes take part."""
    tensors: dict[str, Tensor] = {}
    for name, value in session.averages.tensors():
        full = whole(value)
        if session.world.leads:
            tensors[name] = full.to("cpu", torch.float16)
    if session.world.leads:
        post_hoc.write_snapshot(session.folder, session.step, tensors)
    session.world.meet()


def go_back(session: Session) -> None:
    """Return to the newest checkpoint, or to the beginning, with other noise and half the learning rate."""
    learner, fallen = session.learner, session.recovery
    state = None
    if session.world.leads:
        state = checkpoint.restore_newest(session.folder, learner, lambda _state: None, lambda _path: None)
    state = spread(session.world, learner, state)
    if state is None:
        fresh = first_network(session.config, session.labels, session.device).state_dict()
        learner.optimizer.state.clear()
        for file, tensors in learner.tensors().items():  # those of the optimiser are gone
            learner.held[file] = {name: fresh[name.rpartition("|")[2]] for name in tensors}
        hand_out(learner)
    session.step = state.step if state else 0
    session.saved = state.step if state else None
    session.recovery = fallen.back_to(state.recovery if state else Recovery())
    session.journal.cut(state)
