"""`ditkit estimate`: what a run will take before it begins."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

from . import console, tables
from .opt import examples, only, opt
from .options import RECIPES, Data, Settings
from .train import Target
from .train_options import Optimiser, TrainDevice, TrainModel, TrainOutput

PROBE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class ProbeDevice(TrainDevice):
    """Machine: what computes, and whether its speed is measured."""

    no_probe: bool = opt("--no-probe", "Count only: take no steps on trial.")


@dataclass(frozen=True, kw_only=True)
class RunLength(Optimiser):
    """Optimiser: how many steps of how many images."""

    batch_size: str | None = opt(  # a number: how a batch is split is what the report says
        "--batch-size N|auto",
        "Images in a step; auto keeps the recipe's, split into as many parts as memory requires.",
        shown=RECIPES,
        sets="train.batch_size",
    )


@examples("ditkit estimate mnist", "ditkit estimate paper --set model.preset=dit-xl/2 --no-probe")
def run(
    what: Target,
    settings: Settings,
    data: Data,
    model: Annotated[TrainModel, only("autoencoder")],
    optimiser: Annotated[RunLength, only("steps batch_size")],
    output: Annotated[TrainOutput, only("sample_every keep_every runs_dir json quiet")],
    machine: Annotated[ProbeDevice, only("device dtype no_probe")],
) -> None:
    """Say what a run will take before it begins: memory, disk, time, and whether it fits.

    Nothing is downloaded and nothing is left behind. A few steps on made-up images of the right shape tell the speed.
    """
    from ..errors import UsageError
    from ..estimation.report import count, estimate, report_lines
    from .datasets import resolve_settings, watching

    if what.target is None and settings.config is None:
        raise UsageError(
            "missing argument: what to estimate",
            "try `ditkit estimate mnist`, or any other word that `ditkit train` takes",
        )
    config, name = resolve_settings(
        what.target, settings, output, optimiser, data, model, output, device=machine.device
    )
    with watching(quiet=output.quiet):
        labels, images = count(config)
    load_torch(quiet=output.quiet)
    report = estimate(
        config,
        labels=labels,
        images=images,
        folder=output.runs / name,
        device=machine.device,
        dtype=machine.dtype,
        seconds=None if machine.no_probe else PROBE_SECONDS,
        progress=console.watch(quiet=output.quiet),
    )
    tables.show([json.dumps(report, allow_nan=False)] if output.json else report_lines(report))


def load_torch(*, quiet: bool) -> None:
    """Load torch, to compute with as many threads as training would."""
    from ..runtime.threads import prepare_threads, take_threads

    threads = prepare_threads()
    if threads.why:
        console.say(f"{threads.why}; training looks again at every checkpoint", quiet=quiet)
    with console.loading_torch(quiet=quiet):
        take_threads(threads)
