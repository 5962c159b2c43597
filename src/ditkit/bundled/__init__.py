"""Small models that are inside the package, trained by ditkit itself; CONTRIBUTING.md says how they are made."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """What they are called, as `--model` takes it."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def weights(name: str) -> Path | None:
    """The weights file of one; None if there is none of that name."""
    return _FOLDER / f"{name}.safetensors" if name in names() else None
