"""Printable text, sizes, durations, slugs, Markdown tables."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError


def as_text(word: str) -> str:
    """A name or a typed word as Unicode; under LC_ALL=C Python gives its bytes beyond ASCII as lone surrogates."""
    return word.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def composed(text: str) -> str:
    """Text in which an accented letter is one character (NFC): macOS writes file names with two, keyboards with one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def visible(text: str) -> str:
    """Text whose control and unprintable characters are escaped (file names may hold anything)."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in as_text(text)
    )


def flat(text: str) -> str:
    """The same on one line: a name within a table."""
    return visible(text).replace("\n", "\\n")


def format_duration(seconds: float) -> str:
    """`9m58s`, `1h02m`, `42s`."""
    whole = round(max(0.0, min(seconds, 1e9)))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def format_size(size: float) -> str:
    """`0 B`, `831 kB`, `12.3 MB`, `1.4 GB`."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_each:
            return f"{size / bytes_each:,.1f} {unit}" if unit != "kB" else f"{size / bytes_each:.0f} kB"
    return f"{size:.0f} B"


def format_age(seconds: float) -> str:
    """`42 s`, `9 min`, `5 h`, `12 days`: one number is enough to tell old from new."""
    seconds = max(0.0, seconds)
    for unit, each, most in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 48)):
        if seconds < each * most:
            return f"{seconds / each:.0f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def slug(text: str, otherwise: str = "run") -> str:
    """A safe file name made of any text: ASCII letters and digits, those of other scripts, dot, underscore and dash."""
    letters = "".join(map(_plain, unicodedata.normalize("NFC", text)))
    encoding = sys.getfilesystemencoding()  # ASCII under LC_ALL=C: other letters could name no file
    letters = letters.encode(encoding, "ignore").decode(encoding)
    plain = re.sub("-+", "-", letters).lower().strip("-.")
    name = plain[:60].encode()[:120].decode(errors="ignore").rstrip("-.")
    return f"{otherwise}-{name}" if why_not_on_windows(name) else name or otherwise


def _plain(letter: str) -> str:
    """A letter for a file name: é as e, one without an ASCII letter as it is, a dash for what is no letter."""
    plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode("ascii")
    if plain:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", plain)
    return letter if unicodedata.category(letter)[0] in "LMN" else ""


_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])[ .]*(\..*)?", re.IGNORECASE | re.DOTALL)


def is_device_on_windows(name: str) -> bool:
    """Whether Windows keeps a file's name to itself, in any folder and with any ending: `nul`, `aux.png`, `COM1` …"""
    return _DEVICE.fullmatch(name) is not None


def why_not_on_windows(name: str) -> str | None:
    """What keeps Windows from having a file or folder of that name; None for a name that all systems can have."""
    if is_device_on_windows(name):
        return "Windows keeps that name to itself"
    if name.endswith((".", " ")):
        return "Windows drops a dot or space at the end"
    return "Windows does not allow one of its letters" if re.search(r'[<>:"|?*\\/\x00-\x1f]', name) else None


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
    if Path(word).name != word or set(word) & set("/\\"):
        raise UsageError(f"{option}: {word!r} is a path", "a name only; the place is --runs-dir")
    if why := why_not_on_windows(word):
        raise UsageError(f"{option}: {word!r} cannot name a folder on every system: {why}", "choose another name")
    return word


def shell_words(*words: str) -> str:
    """Words of a command as they are typed, with quotation marks where a shell needs them.

    On Windows double ones, which cmd and PowerShell know alike; cmd would take single ones for letters.
    """
    if os.name != "nt":
        return shlex.join(words)

    def quoted(word: str) -> str:
        return word if re.fullmatch(r"[\w.:\\/+=-]+", word) else '"' + word.replace('"', '\\"') + '"'

    return " ".join(map(quoted, words))


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return ["| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows)]


def free_name(path: Path, ending: str = "") -> Path:
    """The path itself, with its ending, if nothing is there; else the next free `path-2`, `path-3` …"""
    number, candidate = 2, path.with_name(path.name + ending)
    while os.path.lexists(candidate):
        candidate = path.with_name(f"{path.name}-{number}{ending}")
        number += 1
    return candidate


def plural(count: int, noun: str) -> str:
    """`1 thread`, `2 threads`, `1,200 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def parameter_count(number: int) -> str:
    """`7.45M parameters`, `12,345 parameters`."""
    return f"{number / 1e6:.3g}M parameters" if number >= 1e5 else plural(number, "parameter")


def format_count(number: int) -> str:
    """`4.2 M`, `16 G`, `2.4 T`: in front of a unit."""
    for size, letter in ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M")):
        if number >= 0.9995 * size:  # or three digits would be 1e+03 of the unit below
            return f"{number / size:.3g} {letter}"
    return f"{number:,} "


def plus_minus(value: float, error: float | None, *, percent: bool = False) -> str:
    """A figure to two digits of its standard error, or to four without one: `0.0019 ± 0.0010`, `97.80 ± 0.15 %`."""
    scale, unit = (100, " %") if percent else (1, "")
    value, error = value * scale, (error or 0) * scale
    if not 0 < error < math.inf or not math.isfinite(value):
        return f"{value:.4g}{unit}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}{unit}"


def as_toml(value: Any) -> str:
    """A setting's value as people write it in a file of settings: `true`, `[64, 64]`, `"center"`."""
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
