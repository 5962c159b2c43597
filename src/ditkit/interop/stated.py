"""What a checkpoint says about its own training, wherever its script keeps it: the values that are believed first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_DEEPEST = 6
_NOT_SETTINGS = ("state", "callbacks", "loops")  # of an optimiser; of Lightning


def given(settings: Mapping[str, Any], section: str, key: str) -> Any:
    """What the user says of a setting on an import; None for nothing."""
    tree = settings.get(section)
    return tree.get(key) if isinstance(tree, Mapping) else None


class Stated:
    """Values by name: `num_classes` of {"args": {"num_classes": 10}} as of {"config": {"model": {"num_classes": 10}}}.

    Of several values of one name the least nested counts. `tree` is what `state_dicts.metadata` returns.
    """

    def __init__(self, tree: Mapping[str, Any]):
        self._values: dict[str, Any] = {}
        for _, name, value in sorted(_leaves(tree, 0), key=lambda leaf: leaf[0]):
            self._values.setdefault(name.lower(), value)

    def text(self, *names: str) -> str | None:
        """The first of these that is stated as a word."""
        words = (self._values.get(name) for name in names)
        return next((word for word in words if isinstance(word, str) and word), None)

    def number(self, *names: str) -> float | None:
        """The first of these that is stated as a number."""
        values = (self._values.get(name) for name in names)
        return next((float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)), None)

    def count(self, *names: str) -> int | None:
        """The first of these that is stated as a whole number above 0."""
        numbers = (self.number(name) for name in names)
        return next((int(number) for number in numbers if number and number > 0 and number % 1 == 0), None)

    def flag(self, *names: str) -> bool | None:
        """The first of these that is stated as true or false."""
        values = (self._values.get(name) for name in names)
        return next((value for value in values if isinstance(value, bool)), None)


def _leaves(tree: Mapping[str, Any], depth: int) -> Iterator[tuple[int, str, Any]]:
    """(depth, name, value) of every word, number and truth value in nested settings."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            if depth < _DEEPEST and name not in _NOT_SETTINGS:
                yield from _leaves(value, depth + 1)
        elif isinstance(value, list) and len(value) == 2 and value[0] == value[1]:  # height and width
            yield from _leaves({name: value[0]}, depth)
        elif isinstance(value, (bool, int, float, str)):
            yield depth, name, value
