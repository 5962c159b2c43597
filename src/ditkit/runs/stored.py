"""Settings of earlier runs: what they do not say means what it did then, and a run goes on with what it settled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import __version__, recipes
from ..config import DiffusionConfig, RunConfig, flat
from ..errors import CheckpointError, UsageError
from ..io.reading import read_regular

_FIRST_LINE = re.compile(r"# ditkit (\S+)")


def config_text(config: RunConfig) -> str:
    """What a run's config.toml holds: its settings, and which ditkit wrote them."""
    return f"# ditkit {__version__}\n{recipes.dump(config)}"


def read_config(path: Path) -> RunConfig:
    """The settings in a config.toml. Raises as `stored_config` does."""
    content = None
    with suppress(OSError):  # parse says what is wrong
        content = read_regular(path)
    tree = recipes.parse(path, content)
    version = _FIRST_LINE.match((content or b"").decode("utf-8"))
    other = version and version[1] != __version__
    return stored_config(tree, f"{path}: ditkit {version[1]}" if version and other else None)


def stored_config(tree: Mapping[str, Any], written_by: str | None = None) -> RunConfig:
    """The settings in the files of a run or of weights.

    One that does not say how its images are read is older than that choice.

    Raises:
        CheckpointError: for unknown settings, if `written_by` names another ditkit than this one.
        UsageError: for what else is unknown or wrong in them.
    """
    if not isinstance(tree, Mapping):  # of a damaged file
        raise UsageError(f"its settings are {type(tree).__name__}, not a table", "use another checkpoint")
    if written_by and (names := _unknown(tree)):
        raise CheckpointError(
            f"{written_by} wrote settings that this one ({__version__}) does not know: {', '.join(names[:4])}",
            "upgrade with `pip install -U ditkit`",
        )
    tree = dict(tree)
    if isinstance(tree.setdefault("data", {}), Mapping):
        tree["data"] = {"reading": 1, **tree["data"]}
    return recipes.build(tree)


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, as {"optim.lr": (old, new)}."""
    before, after = flat(asdict(old)), flat(asdict(new))
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def continued(config: RunConfig, run: RunConfig) -> RunConfig:
    """The settings for going on with a run, with what it settled when it began: how its images are read, its betas."""
    wanted, data = config.data, run.data
    return replace(
        config,
        diffusion=_with_betas(config.diffusion, run.diffusion),
        data=replace(
            wanted,
            reading=data.reading,
            black=data.black if wanted.black is None else wanted.black,
            white=data.white if wanted.white is None else wanted.white,
            background=wanted.background or data.background,
        ),
    )


def _unknown(tree: Mapping[str, Any]) -> list[str]:
    """The names of settings that this ditkit does not have."""
    known = {name: {*values} if isinstance(values, dict) else set() for name, values in asdict(RunConfig()).items()}
    known["model"].add("preset")
    sections = {name: values for name, values in tree.items() if isinstance(values, Mapping)}
    inner = {f"{name}.{key}" for name, values in sections.items() for key in values if key not in known.get(name, ())}
    return sorted(inner | (tree.keys() - known.keys()))


def _with_betas(wanted: DiffusionConfig, run: DiffusionConfig) -> DiffusionConfig:
    if wanted.timesteps != run.timesteps:
        return wanted
    start = run.beta_start if wanted.beta_start is None else wanted.beta_start
    return replace(wanted, beta_start=start, beta_end=run.beta_end if wanted.beta_end is None else wanted.beta_end)
