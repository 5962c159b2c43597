"""Recipes: whole runs by name, one TOML file each; `load` makes a checked RunConfig of a name and overrides."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import tomli_w

from ..config import RunConfig, from_dict, to_dict
from ..errors import UsageError, unknown
from ..io.reading import read_regular
from ..io.text import as_text
from ..models import presets

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FOLDER = Path(__file__).parent
_ON_GPU = "on_gpu"  # key of a recipe's file


def descriptions() -> dict[str, str]:
    """Every recipe with its first line, which is a comment."""
    files = sorted(_FOLDER.glob("*.toml"), key=lambda file: file.stem)
    return {file.stem: file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for file in files}


def load(name: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The settings of a recipe, with others on top.

    Args:
        name: of the recipe; `ditkit list recipes` names them.
        overrides: settings that replace the recipe's, as a tree: {"optim": {"lr": 1e-3}}.

    Raises UsageError for a name or a setting that is unknown, and for values that do not go together.
    """
    return build(tree(name), overrides or {})


def tree(name: str) -> dict[str, Any]:
    """The settings of a recipe as nested dicts, unchecked."""
    return {key: value for key, value in _read(name).items() if key != _ON_GPU}


def on_gpu(name: str) -> str | None:
    """The recipe that stands in for this one on a GPU, if there is one."""
    return _read(name).get(_ON_GPU)


def _read(name: str) -> dict[str, Any]:
    if name not in descriptions():
        raise unknown("recipe", name, descriptions())
    return parse(_FOLDER / f"{name}.toml")


def parse(path: Path, content: bytes | None = None) -> dict[str, Any]:
    """A TOML file, whose content may be read already, as nested dicts. Raises UsageError if it cannot be read."""
    try:
        return tomllib.loads((read_regular(path) if content is None else content).decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}", "check the path") from None
    except (ValueError, RecursionError) as error:  # a number of 5000 digits and 5000 brackets are no TOML either
        raise UsageError(
            f"{path} is not valid TOML: {error}", "mend it, or print a fresh one with `ditkit show`"
        ) from None


def build(*trees: Mapping[str, Any]) -> RunConfig:
    """A RunConfig of trees, the last wins; `model.preset` stands for its row of sizes, below the keys beside it."""
    return from_dict(reduce(_merge, map(_expand_preset, trees), {}))


def parse_setting(text: str) -> dict[str, Any]:
    """`optim.lr=3e-4` as {"optim": {"lr": 0.0003}}; a value that is not TOML is taken as a string."""
    text = as_text(text)
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UsageError(f"--set {text!r} is not UTF-8", "settings are text")
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise UsageError(f"--set {text!r} is not of the form section.key=value", "e.g. --set optim.lr=3e-4")
    try:
        parsed: Any = tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()
    for part in reversed(parts):
        parsed = {part: parsed}
    return parsed


def merge_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Several `section.key=value` words as one tree."""
    return reduce(_merge, map(parse_setting, texts), {})


def dump(config: RunConfig) -> str:
    """The TOML of a resolved config; parse and build read it back to an equal one."""
    return tomli_w.dumps(to_dict(config))


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _expand_preset(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    model = settings.get("model")
    if not isinstance(model, Mapping) or "preset" not in model:
        return settings
    rest = {key: value for key, value in model.items() if key != "preset"}
    return {**settings, "model": {**presets.settings(str(model["preset"])), **rest}}
