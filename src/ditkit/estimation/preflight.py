"""What a run needs only after hours, tried before its first step: sampler, pictures, packages, disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config import RunConfig
from ..evaluation.report import check_evaluation
from ..io import paths
from ..io.text import format_size
from ..objectives.contract import Process
from ..samplers.contract import open_scheduler, set_steps
from ..visual.grid import check_pictures


def check_needs(config: RunConfig, labels: Sequence[str], process: Process) -> None:
    """Open the sampler, draw an empty sample grid, and look for the packages of an evaluation while training.

    Raises DitkitError, or ImportError for a broken installation.
    """
    set_steps(open_scheduler(config.sample.sampler, process), process, config.sample.steps)
    check_pictures(labels)
    check_evaluation(config)


def disk_remark(config: RunConfig, labels: int, images: int, folder: Path) -> str | None:
    """What to know where the disk has room for some checkpoints of a new run, but not for all its files."""
    from .memory import disk  # not above: it needs the training that asks

    on_disk, free = disk(config, labels, images), paths.free_disk(folder)
    needed = on_disk.total - on_disk.latents  # these are in the cache
    if free is None or free >= needed:
        return None
    return (
        f"the whole run will need about {format_size(needed)} in {folder}, where {format_size(free)} are free: it "
        "would stop, saved, when the disk is full (`ditkit estimate` says what takes how much)"
    )
