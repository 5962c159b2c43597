"""Validation loss, KID and sample grid on the way."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ..checkpoint.loading import Trained
from ..config import RunConfig
from ..data.pixels import to_uint8
from ..evaluation.metrics import kid
from ..events import Evaluated, Sampled, Validated
from ..latents.codec import Codec
from ..models.dit import DiT
from ..runs.model_info import ModelInfo
from ..sampling.generate import draw, sample
from ..visual.grid import grid, save_png, side_by_side
from .session import TrainingSession

_MOST_ROWS = 12


def draw_grid(
    config: RunConfig,
    labels: tuple[str, ...],
    raw: nn.Module,
    ema: nn.Module,
    path: Path,
    step: int,
    device: torch.device,
    codec: Codec,
) -> None:
    """Write the grid of a step: one row per class from the same noise as ever, raw weights left, EMA right."""
    rows, columns = labels[:_MOST_ROWS] or ("",), config.train.sample_columns
    columns = columns if labels else columns * 4
    ids = [row for row in range(len(rows)) for _ in range(columns)] if labels else [0] * columns
    both: list[Tensor] = [
        draw(
            network,
            config.diffusion,
            shape=config.shape,
            labels=ids,
            null_label=len(labels),
            seeds=range(config.seed, config.seed + len(ids)),
            settings=config.sample,
            device=device,
        )
        for network in (raw, ema)
    ]
    pictures = [
        grid(
            to_uint8(codec.to_images(x_BCHW.to(device))),
            columns if labels else 4,
            row_names=rows if labels and index == 0 else None,
        )
        for index, x_BCHW in enumerate(both)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(side_by_side(pictures[0], pictures[1], names=("raw weights", "EMA")), path, {"step": str(step)})


def validate(session: TrainingSession) -> None:
    """Measure the validation loss with the EMA weights and the raw ones, if images are held out."""
    if not len(session.validation):
        return
    part = max(1, session.config.train.batch_size // session.step_context.micro_batches)
    losses = []
    for network in (session.trainable.ema, session.trainable.network):
        seen = session.full_network(network)
        if session.group.is_main:
            losses.append(session.validation.loss(seen, session.device, session.dtype, part))
    if session.group.is_main:
        ema, raw = losses
        if math.isfinite(ema) and math.isfinite(raw):
            rounded = {"validation_loss": float(f"{ema:.7g}"), "validation_loss_raw": float(f"{raw:.7g}")}
            session.logs.append("metrics", {"step": session.step, **rounded})
            session.validated = (session.step, rounded["validation_loss"])
        session.on_event(Validated(step=session.step, loss=ema))
    session.group.barrier()


def judge(session: TrainingSession) -> None:
    """Measure the Kernel Inception Distance, which few images suffice for; all processes take part.

    The images are the same ones each time: those of seeds `seed`, `seed + 1` … Their number, sampler and guidance are
    as the settings say.
    """
    ema = session.full_network(session.trainable.ema)
    if session.judge is not None and session.group.is_main:
        config, step = session.config, session.step
        info = ModelInfo(config=config, labels=session.labels, step=step, latents=session.codec.stats)
        trained = Trained(info=info, network=cast(DiT, ema), codec=session.codec, source=session.folder.path)
        drawn = sample(trained, config.train.evaluate_samples, seed=config.seed)
        seen = session.judge.extractor.extract([one.image for one in drawn])
        distance, error = kid(seen.features_NF, session.judge.reference.features_NF)
        row = {"kid": float(f"{distance:.7g}"), "kid_error": float(f"{error:.7g}")}
        session.logs.append("metrics", {"step": step, **row})
        session.on_event(Evaluated(step=step, kid=distance, error=error))
    session.group.barrier()


def show(session: TrainingSession) -> None:
    """Draw the sample grid of this step."""
    raw, ema = session.full_network(session.trainable.network), session.full_network(session.trainable.ema)
    if session.group.is_main:
        path = session.folder.samples / f"step-{session.step:07d}.png"
        draw_grid(session.config, session.labels, raw.eval(), ema, path, session.step, session.device, session.codec)
        raw.train()
        session.on_event(Sampled(step=session.step, path=path))
    session.group.barrier()
