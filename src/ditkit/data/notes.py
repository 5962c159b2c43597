"""What is to be said about an opened data set: its layout, how it is read, and what is left out."""

from __future__ import annotations

from ..config import DataConfig
from .formats import left_out_of, sentence
from .labels.listing import notes_of
from .settle import sentences


def notes(dataset: object, asked: DataConfig) -> list[str]:
    """A line for each, of a data set that was opened with these settings; nothing of what goes without saying."""
    lines = [*notes_of(dataset), *sentences(getattr(dataset, "config", asked), asked)]
    if not hasattr(dataset, "config"):
        unused = [name for name in ("black", "white", "background") if getattr(asked, name) is not None]
        lines += [f"data.{name} does nothing: these images are not decoded from files" for name in unused]
    return [*lines, *filter(None, [sentence(left_out_of(dataset))])]
