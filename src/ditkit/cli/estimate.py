"""Ditkit estimate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..estimation.report import _counted, estimate_run, report_lines
from . import console
from .annotated import (
    MACHINE,
    Autoencoder,
    Config,
    DataDir,
    Debug,
    Device,
    ImageSize,
    Json,
    LabelBy,
    LabelFile,
    Quiet,
    RunsDir,
    Settings,
)
from .train_options import BatchSize, Dtype, KeepEvery, SampleEvery, Steps, Target

if TYPE_CHECKING:
    from ..config import RunConfig


EXAMPLES = "Examples:\n\nditkit estimate mnist\nditkit estimate paper --set model.preset=dit-xl/2 --no-probe"
PROBE_SECONDS = 10.0

NoProbe = Annotated[
    bool,
    typer.Option("--no-probe", help="Count only: take no steps on trial.", rich_help_panel=MACHINE),
]


def run(
    target: Target = None,
    config: Config = None,
    settings: Settings = None,
    data_dir: DataDir = None,
    label_by: LabelBy = None,
    label_file: LabelFile = None,
    image_size: ImageSize = None,
    autoencoder: Autoencoder = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    sample_every: SampleEvery = None,
    keep_every: KeepEvery = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    no_probe: NoProbe = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say what a run will take before it begins: memory, disk, time, and whether it fits.

    Nothing is downloaded and nothing is left behind. A few steps on made-up images of the right shape tell the speed.
    """
    flags = {
        "--steps": steps,
        "--batch-size": batch_size,
        "--data-dir": data_dir,
        "--label-by": label_by,
        "--label-file": label_file,
        "--image-size": image_size,
        "--autoencoder": autoencoder,
        "--sample-every": sample_every,
        "--keep-every": keep_every,
    }
    _check_words(device, dtype)
    resolved, folder = _resolved(target, config, settings or [], flags, runs_dir, device)
    labels, images = _counted(resolved, quiet=quiet)
    seconds = None if no_probe else PROBE_SECONDS
    report = estimate_run(
        resolved, labels, images, folder=folder, device=device, dtype=dtype, seconds=seconds, quiet=quiet
    )
    for line in [json.dumps(report, allow_nan=False)] if as_json else report_lines(report):
        console.data(line)


def _check_words(device: str, dtype: str) -> None:
    from . import parsing

    parsing.device(device)
    parsing.dtype(dtype)


def _resolved(
    target: str | None,
    file: Path | None,
    settings: list[str],
    flags: dict[str, Any],
    runs_dir: Path | None,
    device: str,
) -> tuple[RunConfig, Path]:
    """The settings that `ditkit train` would take with these words, and the folder that the run would have."""
    from ..errors import UsageError
    from ..runs import target as run_target
    from ..runs.folder import runs_dir as runs_place
    from . import datasets

    if target is None and file is None:
        raise UsageError("estimate what?", "try `ditkit estimate mnist`, or any other word that `ditkit train` takes")
    resolved, name = run_target.resolve(
        target or "",
        file=file,
        settings=settings,
        flags=flags,
        runs_dir=runs_dir,
        choose=lambda target, run: datasets.for_device(target, device, run),
    )
    return resolved, runs_place(runs_dir) / name
