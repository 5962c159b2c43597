"""What `sample` offers for faces when no model here draws any: the original project's weights, from the hub."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError, UsageError
from ..interop.import_model import import_model
from ..runs.folder import RunFolder
from ..runs.lookup import run_names
from ..runs.model_info import ModelInfo, read_model_info
from . import console, datasets, parsing

REPOSITORY, NAME = "vachanvy/Diffusion_Transformer", "celeba-original"
FACES = ("female", "male")


def faces(labels: list[str] | None, runs: Path, *, yes: bool, quiet: bool) -> str | None:
    """The model to draw `female` and `male` with, when nobody named one; None where that is not for us to say.

    It is the newest run that knows them. Without one the original's weights are offered, downloaded and converted.
    Raises UsageError where nobody can be asked, or says no.
    """
    try:
        asked = set(parsing.split_labels(labels or [], FACES))
    except UsageError:
        return None
    if not asked or not asked <= set(FACES):
        return None
    names = run_names(runs)
    known = next((name for name in names if asked <= set(_labels(RunFolder(runs / name)))), None)
    if known is not None and known == names[0]:
        return None
    if known is not None:
        console.say(f"drawing with {runs / known}: the newest run does not know these labels", quiet=quiet)
        return known
    if not _agreed(sorted(asked), yes=yes):
        raise _none(sorted(asked))
    with datasets.watching(quiet=quiet, yes=True):
        return str(import_model(REPOSITORY, name=NAME, runs_dir=runs, progress=console.watch(quiet=quiet)).run)


def _labels(run: RunFolder) -> tuple[str, ...]:
    """Of its newest checkpoint; none where there is none, or it is damaged."""
    try:
        info: ModelInfo = read_model_info(run.checkpoint(run.checkpoint_steps()[-1]) / "ema.safetensors")
    except (IndexError, CheckpointError):
        return ()
    return info.labels


def _agreed(asked: list[str], *, yes: bool) -> bool:
    question = (
        f"no model here draws {' or '.join(asked)}: download the original project's weights "
        f"(hf://{REPOSITORY}, about 620 MB, 128x128 pixels)?"
    )
    try:
        return console.agreed(question, yes=yes)
    except UsageError:
        raise _none(asked) from None


def _none(asked: list[str]) -> UsageError:
    return UsageError(
        f"no model here draws {' or '.join(asked)}",
        f"`ditkit import {REPOSITORY} --as {NAME}` downloads the original project's weights, and so does --yes here; "
        "`ditkit train celeba` trains one",
    )
