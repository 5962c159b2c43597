"""What `sample` offers for faces when no model here draws any: the original project's weights, from the hub."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError
from ..runs.label_words import split_labels
from ..runs.lookup import run_names, run_that_knows
from . import console, datasets

REPOSITORY, NAME = "vachanvy/Diffusion_Transformer", "celeba-original"
FACES = ("female", "male")


def faces(labels: list[str] | None, runs: Path, *, yes: bool, quiet: bool) -> str | None:
    """The model to draw `female` and `male` with, when none is named; None for other labels, and for the newest run.

    It is the newest run that knows them. Without one the original's weights are offered, downloaded and converted.
    Raises UsageError where there is nobody to ask, or the answer is no.
    """
    try:
        wanted = set(split_labels(labels or [], FACES))
    except UsageError:
        return None
    if not wanted or not wanted <= set(FACES):
        return None
    names = run_names(runs)
    drawing = run_that_knows(wanted, runs)
    if drawing is not None and drawing == names[0]:
        return None
    if drawing is not None:
        console.say(f"drawing with {runs / drawing}: the newest run does not know these labels", quiet=quiet)
        return drawing
    from ..interop.import_model import import_model

    _confirm(f"no model here draws {' or '.join(sorted(wanted))}", yes=yes)
    with datasets.watching(quiet=quiet, yes=True):
        return str(import_model(REPOSITORY, name=NAME, runs_dir=runs, progress=console.watch(quiet=quiet)).run)


def _confirm(missing: str, *, yes: bool) -> None:
    offer = f"download the original project's weights (hf://{REPOSITORY}, about 620 MB, 128x128 pixels)?"
    refused = UsageError(
        missing,
        f"`ditkit import {REPOSITORY} --as {NAME}` downloads the original project's weights, and so does --yes here; "
        "`ditkit train celeba` trains one",
    )
    try:
        if console.agreed(f"{missing}: {offer}", yes=yes):
            return
    except UsageError:
        raise refused from None
    raise refused
