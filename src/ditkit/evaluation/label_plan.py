"""Which labels an evaluation draws: as often as the real images have them, or in turn.

Distances between drawn and real images say how good a model is only where both have the same labels as often: images
of ten labels in turn are far from real ones of which nine in ten have one label, however well they are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import unknown
from ..runs.model_info import resolve_labels

DATA, EVEN = "data", "even"
LABELS_AS = (DATA, EVEN)
_NAMED = 4  # labels that `said` gives the share of


@dataclass(frozen=True, kw_only=True)
class LabelPlan:
    """The label of each image to draw (None without labels), and how they were chosen."""

    labels: list[str | None]
    labels_as: str | None  # "data", or "even": in turn; None for a model without labels
    said: str | None  # the same for people

    def label_ids(self, known: Sequence[str]) -> list[int] | None:
        """The number of each image's label among those of the model; None if it has none."""
        numbers = {label: number for number, label in enumerate(known)}
        return [numbers[label] for label in self.labels if label is not None] if numbers else None


def plan_labels(known: Sequence[str], real: Mapping[str, int], count: int, labels_as: str = DATA) -> LabelPlan:
    """The labels of `count` images to draw.

    Args:
        known: the labels of the model.
        real: how many of the real images have each label; empty where that is not known.
        labels_as: "data" draws each label as often as the real images have it, or in turn where they have none of the
            model's labels, or others; "even" draws the labels in turn.

    Raises UsageError for another word.
    """
    if labels_as not in LABELS_AS:
        raise unknown("word for --labels-as:", labels_as, LABELS_AS)
    in_turn = resolve_labels(known, count)
    if not known:
        return LabelPlan(labels=in_turn, labels_as=None, said=None)
    why = "as --labels-as even asks" if labels_as == EVEN else _why_in_turn(known, real)
    if why is not None:
        return LabelPlan(labels=in_turn, labels_as=EVEN, said=f"labels in turn, {why}")
    numbers = [real.get(label, 0) for label in known]
    labels: list[str | None] = [known[index] for index in spread(numbers, count)]
    said = f"labels as often as the real images have them: {_shares(known, numbers)}"
    return LabelPlan(labels=labels, labels_as=DATA, said=said)


def _why_in_turn(known: Sequence[str], real: Mapping[str, int]) -> str | None:
    """Why labels cannot be drawn as often as the real images have them; None if they can."""
    present = [label for label, number in real.items() if number]
    if not present:
        return "because the real images have none"
    others = [label for label in present if label not in known]
    return f"because the real images have one that the model does not know: {others[0]!r}" if others else None


def _shares(known: Sequence[str], numbers: Sequence[int]) -> str:
    commonest = sorted(range(len(known)), key=lambda index: -numbers[index])[:_NAMED]
    shares = ", ".join(f"{known[index]} {numbers[index] / sum(numbers):.1%}" for index in commonest)
    return shares + (" …" if len(known) > _NAMED else "")


def spread(numbers: Sequence[int], count: int) -> list[int]:
    """`count` indices, each as often as its share of `numbers` says, evenly mixed.

    Shares are rounded by their largest remainders, so that each index is there its exact number of times, rounded up
    or down.
    """
    total = sum(numbers)
    times = [count * number // total for number in numbers]
    remainders = [count * number % total for number in numbers]
    for index in sorted(range(len(numbers)), key=lambda index: -remainders[index])[: count - sum(times)]:
        times[index] += 1
    places = [((2 * nth + 1) / number, index) for index, number in enumerate(times) for nth in range(number)]
    return [index for _, index in sorted(places)]
