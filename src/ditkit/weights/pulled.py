"""A model of ditkit's that was fetched from the hub, as a run."""

from __future__ import annotations

from pathlib import Path

import torch

from ..card import Card, read_card
from ..checkpoint import build_network, read_tensors
from ..downloads.models import METRICS, WEIGHTS, source_of
from ..learner import check_tensors
from ..metrics import read_rows
from ..run_folder import RunFolder
from .placed import place


def keep(fetched: Path, folder: RunFolder) -> Card:
    """Write a folder of `downloads.models.fetch_model` as a run; returns the card of its weights.

    Raises CheckpointError for weights that are not what their card says, MachineError for the disk.
    """
    path = fetched / WEIGHTS
    card, tensors = read_card(path), read_tensors(path)
    with torch.device("meta"):  # a card may ask for more memory than there is
        wanted = build_network(card.config, len(card.labels)).state_dict()
    check_tensors({name: tuple(value.shape) for name, value in wanted.items()}, tensors, path)
    about = {"origin": "a model of ditkit's", "source": source_of(fetched)}
    place(folder, card=card, files={WEIGHTS: tensors}, metrics=read_rows(fetched / METRICS), about=about)
    return card
