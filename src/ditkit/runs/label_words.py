"""Words that name the labels of images to draw: `cat`, `cat,dog`, `cat*4`."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import UsageError
from ..io.text import as_text, composed
from .model_info import resolve_labels

MOST_IMAGES = 100_000
ANY = "any"  # the only label of a model without labels
_DEFAULT_IMAGES = 16  # where no word is given, of a model that has no labels, or more than:
_MOST_LABELS = 100


def default_words(known: Sequence[str]) -> list[str]:
    """One image of each label, as long as those are not too many."""
    if not known:
        return [f"{ANY}*{_DEFAULT_IMAGES}"]
    return list(known if len(known) <= _MOST_LABELS else known[:_DEFAULT_IMAGES])


def expand_labels(words: Sequence[str], known: Sequence[str]) -> list[str]:
    """The label of each image. Raises UsageError for one that is unknown. See `split_labels`."""
    labels = split_labels(words, known)
    try:
        return [label or ANY for label in resolve_labels(known, labels)]
    except UsageError as error:
        if not known:
            other = next(label for label in labels if label != ANY)
            raise UsageError(f"this model has no labels, so no {other!r} either", f'e.g. --labels "{ANY}*16"') from None
        nearest = f"{error.hint} " if "did you mean" in str(error.hint) else ""
        if error.message.startswith("unknown"):
            raise UsageError(error.message, nearest + _list(known)) from None
        raise


def split_labels(words: Sequence[str], known: Sequence[str]) -> list[str]:
    """Words as labels, one an image: `cat`, `cat,dog`, `cat*4`; a known label may itself have a comma or a star.

    A model without labels has only `any`. Raises UsageError for a count that is none, and for too many images.
    """
    choices = tuple(known) or (ANY,)
    labels: list[str] = []
    for word in (composed(as_text(typed)) for typed in words):
        parts = [word] if word in choices else [part for part in word.split(",") if part.strip()]
        if not parts:
            raise UsageError(f"--labels: {word!r} names no label", _list(choices))
        for part in parts:
            label, count = _repeated(part.strip(), choices)
            if len(labels) + count > MOST_IMAGES:
                raise UsageError(f"--labels asks for more than {MOST_IMAGES:,} images", "draw them in several runs")
            labels.extend([label] * count)
    return labels


def _repeated(word: str, choices: Sequence[str]) -> tuple[str, int]:
    """`cat*4` as ("cat", 4); a label may itself contain a star."""
    label, star, times = word.rpartition("*")
    if word in choices or not star:
        return word, 1
    if not (times.isascii() and times.isdigit()) or not times.strip("0"):
        raise UsageError(f"--labels: {times!r} in {word!r} is not a count of 1 or more", 'e.g. --labels "cat*4"')
    return label.strip(), int(times) if len(times) < 10 else MOST_IMAGES + 1


def _list(choices: Sequence[str]) -> str:
    return "known: " + ", ".join(choices[:12]) + (" …" if len(choices) > 12 else "")
