"""Looking at a run while it trains: validation loss, sample grid, and images of it against those it learns from."""

from __future__ import annotations

import math
from typing import cast

from .card import Card
from .checkpoint import Trained
from .evaluation.distances import kid
from .events import Judged, Sampled, Validated
from .models.dit import DiT
from .previews import draw_grid
from .sampling import sample
from .session import Session


def validate(session: Session) -> None:
    """Measure the validation loss with the EMA weights and the raw ones, if images are held out."""
    if not len(session.validation):
        return
    part = max(1, session.config.train.batch_size // session.worker.parts)
    losses = []
    for network in (session.learner.ema, session.learner.network):
        seen = session.whole(network)
        if session.world.leads:
            losses.append(session.validation.loss(seen, session.device, session.dtype, part))
    if session.world.leads:
        ema, raw = losses
        if math.isfinite(ema) and math.isfinite(raw):
            rounded = {"validation_loss": float(f"{ema:.7g}"), "validation_loss_raw": float(f"{raw:.7g}")}
            session.journal.append("metrics", {"step": session.step, **rounded})
            session.validated = (session.step, rounded["validation_loss"])
        session.on_event(Validated(step=session.step, loss=ema))
    session.world.meet()


def judge(session: Session) -> None:
    """Measure the Kernel Inception Distance, which few images suffice for; all processes take part.

    The images are the same ones each time: those of seeds `seed`, `seed + 1` … Their number, sampler and guidance are
    as the settings say.
    """
    ema = session.whole(session.learner.ema)
    if session.judge is not None and session.world.leads:
        config, step = session.config, session.step
        card = Card(config=config, labels=session.labels, step=step, latents=session.codec.stats)
        trained = Trained(card=card, network=cast(DiT, ema), codec=session.codec, source=session.folder.path)
        drawn = sample(trained, config.train.evaluate_samples, seed=config.seed)
        seen = session.judge.extractor.see([one.image for one in drawn])
        distance, error = kid(seen.features_NF, session.judge.reference.features_NF)
        row = {"kid": float(f"{distance:.7g}"), "kid_error": float(f"{error:.7g}")}
        session.journal.append("metrics", {"step": step, **row})
        session.on_event(Judged(step=step, kid=distance, error=error))
    session.world.meet()


def show(session: Session) -> None:
    """Draw the sample grid of this step."""
    raw, ema = session.whole(session.learner.network), session.whole(session.learner.ema)
    if session.world.leads:
        path = session.folder.samples / f"step-{session.step:07d}.png"
        draw_grid(session.config, session.labels, raw.eval(), ema, path, session.step, session.device, session.codec)
        raw.train()
        session.on_event(Sampled(step=session.step, path=path))
    session.world.meet()
