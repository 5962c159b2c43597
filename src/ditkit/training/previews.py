"""Validation loss, KID and sample grid on the way."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

from torch import nn

from ..checkpoint.loading import Trained
from ..data.pixels import to_uint8
from ..evaluation.in_training import labels_changed, measure_kid
from ..events import Sampled, Validated, Warned
from ..models.dit import DiT
from ..runs.folder import check_ours
from ..runs.metrics import read_rows
from ..runs.model_info import ModelInfo
from ..runtime.at_once import halving
from ..sampling.batch_size import default_batch_size
from ..sampling.generate import draw
from ..visual.grid import grid, save_png, side_by_side
from .session import TrainingSession

_MOST_ROWS = 12


def validate(session: TrainingSession) -> None:
    """Measure the validation loss with the EMA weights and the raw ones, if images are held out.

    All processes must call it together, as they must the others: sharded weights are gathered from all.
    """
    if not len(session.validation):
        return
    part = max(1, session.config.train.batch_size // session.step_context.micro_batches)
    losses = []
    for network in (session.trainable.ema, session.trainable.network):
        full = session.full_network(network)
        if session.group.is_main:
            loss = partial(session.validation.loss, full, session.device, session.compute.autocast)
            with _as_incident(session, "validating"):
                losses.append(halving(loss, part, session.device))
    if len(losses) == 2:
        ema, raw = losses
        if math.isfinite(ema) and math.isfinite(raw):
            rounded = {"validation_loss": float(f"{ema:.7g}"), "validation_loss_raw": float(f"{raw:.7g}")}
            session.logs.append("metrics", {"step": session.step, **rounded})
            session.validated = (session.step, rounded["validation_loss"])
        session.on_event(Validated(step=session.step, loss=ema))
    session.group.barrier()


def judge(session: TrainingSession) -> None:
    """Measure the KID of a few images drawn with the EMA weights (see `evaluation.in_training`)."""
    ema = session.full_network(session.trainable.ema)
    if session.judge is not None and session.group.is_main:
        info = ModelInfo(config=session.config, labels=session.labels, step=session.step, latents=session.codec.stats)
        trained = Trained(info=info, network=cast(DiT, ema), codec=session.codec, source=session.folder.path)
        with _as_incident(session, "evaluating"):
            most = default_batch_size(trained.network, session.config.shape, session.device)
            row, event = halving(partial(measure_kid, session.judge, trained), most, session.device)
            if changed := labels_changed(read_rows(session.folder.metrics_file), row):
                session.on_event(Warned(step=session.step, text=changed))
            session.logs.append("metrics", row)
            session.on_event(event)
    session.group.barrier()


def show(session: TrainingSession) -> None:
    """Draw the sample grid of this step. All processes must call it together."""
    raw, ema = session.full_network(session.trainable.network), session.full_network(session.trainable.ema)
    if session.group.is_main:
        check_ours(session.folder)
        path = session.folder.samples / f"step-{session.step:07d}.png"
        with _as_incident(session, "drawing samples"):
            _draw_grid(session, raw.eval(), ema, path)
            session.on_event(Sampled(step=session.step, path=path))
        raw.train()
    session.group.barrier()


@contextlib.contextmanager
def _as_incident(session: TrainingSession, what: str) -> Iterator[None]:
    """What fails inside is reported and recorded, and the run goes on: its steps are worth more than a picture."""
    try:
        yield
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        text = f"{what} failed: {reason}; training goes on without"
        session.on_event(Warned(step=session.step, text=text))
        session.logs.append("incidents", {"step": session.step, "what": text})


def _draw_grid(session: TrainingSession, raw: nn.Module, ema: nn.Module, path: Path) -> None:
    """Write a grid: one row per class from the same noise at every step, raw weights left, EMA right."""
    config, labels = session.config, session.labels
    rows = labels[:_MOST_ROWS] or ("",)
    columns = config.train.sample_columns if labels else 4 * config.train.sample_columns
    ids = [row for row in range(len(rows)) for _ in range(columns)]
    grids = []
    for network, row_names in ((raw, rows if labels else None), (ema, None)):
        drawing = partial(
            draw,
            network,
            config.diffusion,
            shape=config.shape,
            labels=ids,
            null_label=len(labels),
            seeds=range(config.seed, config.seed + len(ids)),
            settings=config.sample,
            device=session.device,
        )
        most = default_batch_size(network, config.shape, session.device)
        x_BCHW = halving(lambda at_once, drawing=drawing: drawing(batch_size=at_once), most, session.device)
        pixels = to_uint8(session.codec.to_images(x_BCHW.to(session.device)))
        grids.append(grid(pixels, columns if labels else 4, row_names=row_names))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(side_by_side(*grids, names=("raw weights", "EMA")), path, {"step": str(session.step)})
