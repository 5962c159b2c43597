"""Words as they are typed: durations, devices, numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ..errors import UsageError, unknown

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 366 * 86400.0
DTYPES = ("auto", "float32", "bfloat16")
_SWITCH = ("auto", "on", "off")
SHORTEST_EMA, LONGEST_EMA = 0.005, 0.25  # lengths; the plain mean of all steps would be 0.289


def spread(words: Sequence[str], option: str = "--labels") -> list[str]:
    """`--labels a b c` as `--labels=a --labels=b --labels=c`; values go on until a word that starts with `-`."""
    spread_words: list[str] = []
    values_follow = False
    for position, word in enumerate(words):
        if word == "--":
            return [*spread_words, *words[position:]]
        if word.startswith("-") and len(word) > 1:
            has_value = position + 1 < len(words) and not words[position + 1].startswith("-")
            values_follow = (word == option and has_value) or word.startswith(f"{option}=")
            if not (word == option and has_value):
                spread_words.append(word)
        else:
            spread_words.append(f"{option}={word}" if values_follow else word)
    return spread_words


def duration(word: str) -> float:
    """Seconds in `90s`, `10m` or `1h30m`. Raises UsageError for anything else, as `90`; for 0, and for over a year."""
    text = word.strip().lower()
    parts = re.findall(r"(\d{1,9}(?:\.\d{1,6})?)([smhd])", text, re.ASCII)
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        raise UsageError(f"--max-time: {text} has no unit", f"write {text}s, {text}m or {text}h")
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"--max-time: {word!r} is not a duration", "write 90s, 10m or 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < seconds <= _LONGEST:
        raise UsageError(f"--max-time: {word!r} is not between a moment and a year", "write 90s, 10m or 1h30m")
    return seconds


def device(word: str) -> str:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`; whether the machine has it is known only once torch is there."""
    if re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", word, re.ASCII):
        return word
    raise unknown("device", word, ("auto", "cpu", "cuda", "cuda:0", "mps"))


def threads(word: str) -> str:
    """`auto`, or a number of threads."""
    if word == "auto" or (word.isascii() and word.isdigit() and int(word[:9]) > 0 and len(word) <= 4):
        return word
    raise UsageError(f"--threads: {word!r} is neither auto nor a number from 1 to 9999", "leave it out")


def number_or_auto(word: str) -> str:
    """`auto`, however it is spelled, or a word that the settings read."""
    return "auto" if word.strip().lower() == "auto" else word


def switch(option: str, word: str) -> str:
    """`auto`, `on` or `off`. Raises UsageError for another word."""
    return choice(f"word for {option}:", word, _SWITCH)


def choice(kind: str, word: str, words: Sequence[str]) -> str:
    """One of the words that are known. Raises UsageError for another, which calls it an unknown `kind`."""
    if word in words:
        return word
    raise unknown(kind, word, words)


def ema_length(text: str) -> float:
    """The length that a word asks for. Raises UsageError."""
    try:
        length = float(text)
    except ValueError:
        length = math.nan
    if not SHORTEST_EMA <= length <= LONGEST_EMA:
        hint = "0.05 averages over about the last tenth of the training, 0.1 over the last fifth"
        raise UsageError(f"--ema: {text} is not a length between {SHORTEST_EMA} and {LONGEST_EMA}", hint)
    return length
