"""Words from the command line turned into values; nothing here needs torch, or even the settings."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import MachineError, UsageError, unknown
from ..paths import as_text, expanded

MOST_IMAGES = 100_000
ANY = "any"  # the only label of a model without labels
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 366 * 86400.0
_DTYPES = ("auto", "float32", "bfloat16")
_SWITCH = ("auto", "on", "off")


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


def expand_labels(words: Sequence[str], known: Sequence[str]) -> list[str]:
    """Labels asked for, one an image: `cat`, `cat,dog`, `cat*4`. Raises UsageError for what is unknown or too much.

    A model without labels has only `any`.
    """
    choices = tuple(known) or (ANY,)
    labels: list[str] = []
    for word in (as_text(typed) for typed in words):
        parts = [word] if word in choices else [part for part in word.split(",") if part.strip()]
        if not parts:
            raise UsageError(f"--labels: {word!r} names no label", _list(choices))
        for part in parts:
            label, count = _repeated(part.strip(), choices)
            if label not in choices and not known:
                raise UsageError(f"this model has no labels, so no {label!r} either", f"e.g. --labels '{ANY}*16'")
            if label not in choices:
                wrong = unknown("label", label, choices)
                near = f"{wrong.hint} " if "did you mean" in str(wrong.hint) else ""
                raise UsageError(wrong.message, near + _list(choices))
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
        raise UsageError(f"--labels: {times!r} in {word!r} is not a count of 1 or more", "e.g. --labels 'cat*4'")
    return label.strip(), int(times) if len(times) < 10 else MOST_IMAGES + 1


def _list(choices: Sequence[str]) -> str:
    return "known: " + ", ".join(choices[:12]) + (" …" if len(choices) > 12 else "")


def duration(word: str) -> float:
    """Seconds in `90`, `90s`, `10m` or `1h30m`. Raises UsageError for anything else, for 0, and for over a year."""
    text = word.strip().lower()
    whole = re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text, re.ASCII)
    parts = re.findall(r"(\d{1,9}(?:\.\d{1,6})?)([smhd])", text, re.ASCII)
    if whole:
        seconds = float(text)
    elif parts and "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        raise UsageError(f"--max-time: {word!r} is not a duration", "write 90s, 10m or 1h30m")
    if not 0 < seconds <= _LONGEST:
        raise UsageError(f"--max-time: {word!r} is not between a moment and a year", "write 90s, 10m or 1h30m")
    return seconds


def spoken_duration(seconds: float) -> str:
    """`9m58s`, `1h02m`, `42s`."""
    whole = round(max(0.0, min(seconds, 1e9)))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def spoken_size(size: float) -> str:
    """`0 B`, `831 kB`, `12.3 MB`, `1.4 GB`."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_each:
            return f"{size / bytes_each:,.1f} {unit}" if unit != "kB" else f"{size / bytes_each:.0f} kB"
    return f"{size:.0f} B"


def spoken_age(seconds: float) -> str:
    """`42 s`, `9 min`, `5 h`, `12 days`: one number is enough to tell old from new."""
    seconds = max(0.0, seconds)
    for unit, each, most in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 48)):
        if seconds < each * most:
            return f"{seconds / each:.0f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def device(word: str) -> str:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`; whether the machine has it is known only once torch is there."""
    if re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d{1,3})?", word, re.ASCII):
        return word
    raise unknown("device", word, ("auto", "cpu", "cuda", "cuda:0", "mps"))


def dtype(word: str) -> str:
    """A known --dtype."""
    if word not in _DTYPES:
        raise unknown("dtype", word, _DTYPES)
    return word


def threads(word: str) -> str:
    """`auto`, or a number of threads."""
    if word == "auto" or (word.isascii() and word.isdigit() and int(word[:9]) > 0 and len(word) <= 4):
        return word
    raise UsageError(f"--threads: {word!r} is neither auto nor a number from 1 to 9999", "leave it out")


def switch(option: str, word: str) -> str:
    """`auto`, `on` or `off`."""
    if word in _SWITCH:
        return word
    raise unknown(f"word for {option}:", word, _SWITCH)


def slug(text: str, otherwise: str = "run") -> str:
    """A safe file name out of any text: a-z, 0-9, dot, underscore and dash only."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    return re.sub(r"[^a-z0-9._-]+", "-", plain).strip("-.")[:60] or otherwise


def run_name(word: str, option: str = "--name") -> str:
    """A --name that can be a folder. Raises UsageError otherwise."""
    if (
        not word.strip()
        or word != word.strip()
        or word.startswith((".", "-"))
        or len(word) > 100
        or not word.isprintable()
    ):
        raise UsageError(f"{option}: {word[:100]!r} cannot name a folder", "use letters, digits, dots and dashes")
    if Path(word).name != word or set(word) & set('/\\:*?"<>|'):
        raise UsageError(f"{option}: {word!r} is a path", "a name only; the place is --runs-dir")
    return word


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]


def free_name(path: Path, ending: str = "") -> Path:
    """The path itself, with its ending, if nothing is there, else the next free `path-2`, `path-3` …"""
    number, candidate = 2, path.with_name(path.name + ending)
    while os.path.lexists(candidate):
        candidate = path.with_name(f"{path.name}-{number}{ending}")
        number += 1
    return candidate


def autoencoder_folder(given: Path | None) -> Path | None:
    """The folder of an autoencoder. Raises UsageError or DataError if there is none."""
    if given is None:
        return None
    from ..autoencoders import presets

    if not expanded(given).is_dir():
        raise UsageError(f"--autoencoder: there is no folder {given}", "check the path")
    return presets.autoencoder_folder(expanded(given))


def png_path(out: Path | None, stem: str, *, force: bool, beside: str | None = None) -> Path:
    """Where a picture goes: `out`, else `stem`.png here, under the next free name unless `force` overwrites.

    `beside` is the ending of a second file next to it. Raises UsageError or MachineError when it cannot be written.
    """
    default = Path(f"{stem}.png") if force else free_name(Path(stem), ".png")
    path = expanded(out) if out else default
    if path.is_dir() or path.suffix.lower() != ".png":
        raise UsageError(f"--out: {path} is not the name of a PNG", f"e.g. --out {stem}.png")
    for file in (path, path.with_suffix(beside)) if beside else (path,):
        check_file(file, force=force)
    return path


def check_writable(folder: Path) -> None:
    """Raise UsageError or MachineError, before the work, when files could not be written to a folder after it."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise UsageError(f"--out: {existing} is a file", "name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise MachineError(f"cannot write to {existing}", "choose another place with --out")


def check_file(path: Path, *, force: bool) -> None:
    """Raise DitkitError when a file cannot be written there, or would overwrite another without --force."""
    check_writable(path.parent)
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} is there already", "overwrite it with --force, or choose another name with --out")
