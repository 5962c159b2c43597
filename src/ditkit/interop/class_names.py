"""Names for the classes of an imported model: `import --class-names`, a file, a folder or words."""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..io.paths import expanded
from ..io.text import as_text
from .base import ForeignModel, imagenet

_OPTION = "--class-names"
_NUMBERED = re.compile(r"(\d+)\s*[\s,;:=]\s*(.+)")  # "0 tench", "0: tench", "0,tench"


def named(model: ForeignModel, word: str | Path | None) -> ForeignModel:
    """A model with the names that --class-names gives its classes; without it, with a note on what they are called.

    Raises UsageError as `read_class_names` does.
    """
    if word is not None:
        labels = read_class_names(word, len(model.info.labels))
        return dataclasses.replace(model, info=dataclasses.replace(model.info, labels=labels))
    note = _note(model.info.labels) if model.names_are_assumed else ""
    return dataclasses.replace(model, notes=(*model.notes, note)) if note else model


def _note(labels: Sequence[str]) -> str:
    """What to say of an import whose file names no classes; "" where there is nothing to say."""
    if tuple(labels) == imagenet():
        return "assumed: its 1,000 classes are ImageNet's; if not: --class-names FILE|FOLDER"
    if labels and all(label.isdigit() for label in labels):
        hint = "female,male if they are faces of CelebA" if len(labels) == 2 else "FILE|FOLDER, or cat,dog,…"
        return f"its {len(labels)} classes have numbers only; name them with --class-names {hint}"
    return ""


def read_class_names(word: str | Path, count: int) -> tuple[str, ...]:
    """The names of `count` classes in their order.

    Args:
        word: a folder, whose subfolders in alphabetical order are the classes, as torchvision's ImageFolder numbers
            them; a .json file (a list, {"0": "tench"}, {"0": ["n01440764", "tench"]} or {"tench": 0}); another file,
            one name a line, perhaps with its number before it; or names with commas between them.

    Raises UsageError for a file that cannot be read, another number of names, or two that are equal.
    """
    path = expanded(word)
    try:
        if path.is_dir():
            names = _of_folder(path)
        elif path.is_file():
            content = path.read_text(encoding="utf-8-sig")
            names = _of_json(json.loads(content)) if path.suffix.lower() == ".json" else _of_lines(content)
        elif "," in str(word):
            names = str(word).split(",")
        else:
            raise UsageError(f"{_OPTION}: there is no file or folder {word}", "check the path, or write cat,dog")
    except OSError as error:
        raise UsageError(f"{_OPTION}: cannot read {path}: {error.strerror or error}", "check the path") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{_OPTION}: {path} is no list of names: {error}", "write one name a line") from None
    return _checked([unicodedata.normalize("NFC", as_text(name)).strip() for name in names], count, str(word))


def _checked(names: Sequence[str], count: int, word: str) -> tuple[str, ...]:
    if len(names) != count:
        first = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
        raise UsageError(
            f"{_OPTION}: {word} has {len(names)} names ({first}), the model {count} classes",
            "name the file or folder that it was trained with",
        )
    wrong = next((name for name in names if not name or not name.isprintable()), None)
    if wrong is not None:
        raise UsageError(f"{_OPTION}: {wrong!r} cannot be the name of a class", "use printable letters")
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < count else None
    if twice is not None:
        raise UsageError(f"{_OPTION}: two classes are called {twice!r}", "give each a name of its own")
    return tuple(names)


def _of_folder(folder: Path) -> Sequence[str]:
    """As ImageFolder sorts them; ImageNet's, which are called n01440764 and so on, by what they show."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    is_imagenet = len(names) == len(imagenet()) and all(re.fullmatch(r"n\d{8}", name) for name in names)
    return imagenet() if is_imagenet else names


def _of_lines(content: str) -> list[str]:
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if all(numbered) and sorted(int(match[1]) for match in numbered if match) == list(range(len(lines))):
        return [match[2] for match in sorted(filter(None, numbered), key=lambda match: int(match[1]))]
    return lines


def _of_json(tree: Any) -> list[str]:
    if isinstance(tree, list):
        return [_name(value) for value in tree]
    if not isinstance(tree, Mapping):
        raise ValueError("neither a list nor a table")
    if all(type(value) is int for value in tree.values()):
        tree = {number: name for name, number in tree.items()}  # ImageFolder's class_to_idx
    by_number = {int(number): _name(name) for number, name in tree.items()}
    if sorted(by_number) != list(range(len(tree))):
        raise ValueError("its numbers do not count from 0")
    return [by_number[number] for number in range(len(tree))]


def _name(value: Any) -> str:
    """The name itself, or the last of several words for it, as lists of ImageNet's have."""
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no name")
    return value
