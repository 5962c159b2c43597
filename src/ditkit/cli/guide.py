"""The weights that `--autoguide` names: an early checkpoint of a run, or another model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import complete
from .options import DIFFUSION

if TYPE_CHECKING:
    from ..card import Card

Autoguide = Annotated[
    str | None,
    typer.Option(
        "--autoguide",
        metavar="[RUN]@STEP|MODEL",
        autocompletion=complete.run_names,
        show_default="none",
        help="Guide away from what a worse model draws instead of from no label: an early checkpoint (@1000 for one of "
        "the same run, which `train --keep-every` keeps), or a smaller model.",
        rich_help_panel=DIFFUSION,
    ),
]


def find_guide(word: str, weights: Path, card: Card, runs: Path, *, scale: float, ema: bool) -> Path:
    """The guide's weights file for a model's `weights` and `card`.

    Raises UsageError for a run, step or file that is not there, and for a model that cannot guide this one.
    """
    from ..card import check_guide, read_card
    from ..downloads.place import is_hub
    from ..errors import UsageError
    from ..run_folder import find_weights

    path = find_weights(word, runs, ema=ema) if is_hub(word) or "@" not in word else _of_step(word, weights, runs, ema)
    if path.resolve() == weights.resolve():
        raise UsageError("--autoguide names the model itself", "name a worse one: an early checkpoint")
    if scale == 1:
        raise UsageError("--autoguide does nothing at guidance 1", "ask for more, e.g. --guidance 2")
    check_guide(card, read_card(path))
    return path


def _of_step(word: str, weights: Path, runs: Path, ema: bool) -> Path:
    from ..errors import UsageError
    from ..run_folder import find_run, run_of

    name, _, step = word.rpartition("@")
    run = find_run(name, runs) if name else run_of(weights)
    if run is None:
        raise UsageError(f"--autoguide {word}: {weights} is not in a run's folder", "say RUN@STEP")
    known = run.checkpoint_steps()
    if not step.isascii() or not step.isdigit() or int(step) not in known:
        there = ", ".join(f"{one}" for one in known[:12]) or "none"
        raise UsageError(
            f"--autoguide {word}: {run.path} has no checkpoint of step {step or '(nothing)'}",
            f"there are: {there}; keep more with `ditkit train … --keep-every N`",
        )
    return run.checkpoint(int(step)) / ("ema.safetensors" if ema else "model.safetensors")
