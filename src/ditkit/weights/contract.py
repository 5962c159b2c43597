"""What another project's model is once it has been read: a card and tensors in ditkit's own names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..card import Card


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """Another project's model, ready to be saved as one of ditkit's."""

    origin: str  # the format, in words: "diffusers DiTPipeline"
    card: Card
    ema: dict[str, Tensor]  # every parameter of ditkit's DiT by its name, float32; the averaged weights
    raw: dict[str, Tensor] | None = None  # the weights that were averaged, where they are there, too
    losses: tuple[tuple[int, float], ...] = ()  # (step, training loss)
