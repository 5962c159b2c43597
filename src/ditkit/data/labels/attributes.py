"""Classes from attributes that an image has or has not: their product, with names that people can type."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import UsageError, unknown

MOST = 6  # attributes, so 64 classes
_YES_AND_NO = (("1", "-1"), ("1", "0"), ("true", "false"))
_YES = tuple(yes for yes, _ in _YES_AND_NO)
NONE = "none"  # an image that has none of several attributes


def choose(label_by: str, names: Sequence[str], kind: str = "attribute") -> list[str]:
    """The attributes of `Male,Smiling` as they are spelled in the data. Raises UsageError for unknown ones."""
    spelled = {name.lower(): name for name in names}
    chosen: list[str] = []
    for word in (part.strip() for part in label_by.split(",")):
        if word.lower() not in spelled:
            raise unknown(kind, word, names)
        if spelled[word.lower()] in chosen:
            raise UsageError(f"the {kind} {word} is there twice in {label_by!r}", "name each once")
        chosen.append(spelled[word.lower()])
    if len(chosen) > MOST:
        raise UsageError(f"{len(chosen)} attributes make {2 ** len(chosen):,} classes", f"choose at most {MOST}")
    return chosen


def labels(names: Sequence[str]) -> tuple[str, ...]:
    """The classes in the order of their ids: each combination of attributes. Male makes female and male.

    One attribute makes `not_smiling` and `smiling`; of several, those that an image has are joined by `+`.
    """
    count = len(names)
    return tuple(_name(names, [bool(number >> bit & 1) for bit in range(count)]) for number in range(2**count))


def of_answers(names: Sequence[str], combinations: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], str] | None:
    """The class of each combination of answers, in the order of `labels`; None unless all are 1 and -1, or 1 and 0.

    They may also be true and false. One column of 1 alone says too little.
    """
    columns = [{_plain(answers[column]) for answers in combinations} for column in range(len(names))]
    if not all(any(column <= {yes, no} for yes, no in _YES_AND_NO) for column in columns) or columns == [{"1"}]:
        return None

    def has(answers: tuple[str, ...]) -> list[bool]:
        return [_plain(answer) in _YES for answer in answers]

    ordered = sorted(combinations, key=lambda answers: has(answers)[::-1])
    return {answers: _name(names, has(answers)) for answers in ordered}


def _plain(answer: str) -> str:
    return answer.lower().removesuffix(".0")


def ids(has: np.ndarray) -> np.ndarray:
    """The class id of each image, int64 (N,), of whether it has each attribute, bool (N, attributes)."""
    return (has.astype(np.int64) << np.arange(has.shape[1])).sum(axis=1)


def _name(names: Sequence[str], has: Sequence[bool]) -> str:
    parts = []
    for name, present in zip(names, has, strict=True):
        if name == "Male":
            parts.append("male" if present else "female")
        elif present:
            parts.append(name.lower())
    if len(names) == 1 and not parts:
        return f"not_{names[0].lower()}"
    return "+".join(parts) or NONE
