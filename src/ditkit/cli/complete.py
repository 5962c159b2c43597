"""Names for shell completion, from file names and `ast` alone: fast enough for every press of Tab."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

FORMATS = ("safetensors", "diffusers", "onnx")
PROJECTS = ("dit", "sit", "repa", "lightningdit", "original")
WEIGHT_DTYPES = ("float32", "float16", "bfloat16")
FAMILIES = ("datasets", "recipes", "models", "objectives", "samplers", "autoencoders", "trackers")
Names = list[tuple[str, str]]


def recipes() -> Names:
    """Recipe names with their first lines, without the machinery that checks settings."""
    folder = Path(__file__).parent.parent / "recipes"
    files = sorted(folder.glob("*.toml"), key=lambda file: file.stem)
    return [(file.stem, file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")) for file in files]


def matching(names: Iterable[tuple[str, str]], incomplete: str) -> Names:
    """Those names that begin with what is typed so far."""
    return [pair for pair in names if pair[0].startswith(incomplete)]


def runs(ctx: Any = None) -> Names:
    """Names of the runs in --runs-dir, DITKIT_RUNS or ./runs."""
    runs_dir = ctx.params.get("runs_dir") if ctx is not None else None
    folder = Path(runs_dir or os.environ.get("DITKIT_RUNS") or "runs")
    files = sorted(folder.glob("*/config.toml")) if folder.is_dir() else []
    return [(file.parent.name, f"the run in {file.parent}") for file in files]


def training_targets(ctx: Any, incomplete: str) -> Names:
    """Recipes, datasets, runs."""
    from ..registry import DATASETS

    names = dict(runs(ctx)) | DATASETS.descriptions() | dict(recipes())
    return matching(names.items(), incomplete) + folders(incomplete)


def trackers(incomplete: str) -> Names:
    """Where metrics can go."""
    from ..registry import TRACKERS

    return matching(TRACKERS.descriptions().items(), incomplete)


def run_names(ctx: Any, incomplete: str) -> Names:
    return matching(runs(ctx), incomplete) + folders(incomplete)


def recipes_and_runs(ctx: Any, incomplete: str) -> Names:
    names = dict(runs(ctx)) | dict(recipes())
    return matching(names.items(), incomplete)


def gif_words(ctx: Any, incomplete: str) -> Names:
    """Kinds of GIFs, and runs."""
    kinds = [("train", "the sample grids over training"), ("denoise", "one drawing, step by step")]
    kinds += [("interpolate", "from one image to the next"), ("compare", "the grids of several runs")]
    return matching(kinds, incomplete) + run_names(ctx, incomplete)


def samplers(incomplete: str) -> Names:
    from ..registry import SAMPLERS

    return matching(SAMPLERS.descriptions().items(), incomplete)


def backends(incomplete: str) -> Names:
    names = [("torch", "what trains, and draws everything"), ("jax", "compiled by XLA")]
    return matching(names, incomplete)


def autoencoders(incomplete: str) -> Names:
    from ..autoencoders.files import descriptions

    return matching(descriptions().items(), incomplete) + folders(incomplete)


def cached(incomplete: str) -> Names:
    """What `data remove` takes; the sizes would take too long."""
    from ..io.cache import entries

    return [(entry.name, entry.source or "") for entry in entries() if entry.name.startswith(incomplete)]


def words(*known: str) -> Callable[[str], list[str]]:
    """What completes one of a few words."""

    def matching_words(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return matching_words


def folders(incomplete: str) -> Names:
    """Folders, for words that are being typed as a path."""
    if not incomplete.startswith((".", "/", "~")) and "/" not in incomplete:
        return []
    parent, _, start = incomplete.rpartition("/")
    place = Path(parent or "/").expanduser() if "/" in incomplete else Path()
    if not place.is_dir():
        return []
    names = sorted(path.name for path in place.iterdir() if path.is_dir() and path.name.startswith(start))
    return [(f"{parent}/{name}" if "/" in incomplete else name, "folder") for name in names]
