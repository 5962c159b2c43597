"""A model of ditkit's that was fetched from the hub, as a run."""

from __future__ import annotations

from pathlib import Path

from ..card import Card, read_card
from ..checkpoint import check_fits, read_tensors
from ..downloads.models import METRICS, WEIGHTS, source_of
from ..metrics import read_rows
from ..run_folder import RunFolder
from .placed import place


def keep(fetched: Path, folder: RunFolder) -> Card:
    """Write a folder of `downloads.models.fetch_model` as a run; returns the card of its weights.

    Raises CheckpointError for weights that are not what their card says, MachineError for the disk.
    """
    path = fetched / WEIGHTS
    card, tensors = read_card(path), read_tensors(path)
    check_fits(card, tensors, path)
    about = {"origin": "a model of ditkit's", "source": source_of(fetched)}
    place(folder, card=card, files={WEIGHTS: tensors}, metrics=read_rows(fetched / METRICS), about=about)
    return card
