"""Opening the data of a command: consent, progress, GPU recipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import recipes
from ..autoencoders.files import PIXEL, find_files
from ..config import RunConfig
from ..errors import DataError
from ..runs.folder import RunFolder
from ..runs.target import Target, resolve
from ..runtime import launch
from . import console
from .opt import changes

if TYPE_CHECKING:
    from ..data.contract import Dataset, Datasets
    from .options import Output, Settings


def resolve_settings(
    word: str | None, settings: Settings, output: Output, *groups: Any, device: str | None = None
) -> tuple[RunConfig, str]:
    """The settings that the options of a command stand for, and the name of what they would train.

    `device` is where they are for, where a recipe may have another one that stands in for it on a GPU.
    """
    return resolve(
        word or "",
        file=settings.config,
        settings=settings.settings or [],
        changes=changes(*groups),
        runs=output.runs,
        choose=lambda target, run: target if device is None else for_device(target, device, run),
    )


def for_device(target: Target, device: str, run: RunFolder | None) -> Target:
    """The target, or the recipe that stands in for it on a GPU; a run that is there goes on with the one it has."""
    if target.on_gpu is None:
        return target
    large = replace(target, tree=recipes.tree(target.on_gpu), on_gpu=None)
    if run is not None and run.is_run():
        used = run.read_config().autoencoder.name
        return large if used == recipes.build(large.tree).autoencoder.name else target
    if not fast_gpu_is_there(device):
        return target
    console.say(f"there is a fast GPU: taking the recipe {target.on_gpu}; --device cpu takes the small one")
    return large


def fast_gpu_is_there(device: str) -> bool:
    """Whether training would run on a GPU that computes in bfloat16: a large recipe takes far longer in float32.

    Loads torch, which takes seconds, only where there may be one.
    """
    if device in ("cpu", "mps"):
        return False
    from ..runtime.memory import GPU_DEVICES

    files = (*GPU_DEVICES, "/dev/dxg")
    if device == "auto" and sys.platform == "linux" and not any(Path(file).exists() for file in files):
        return False
    with console.loading_torch():
        from ..runtime.device import computes_bfloat16, find_device
    found = find_device(device)
    return found.type == "cuda" and computes_bfloat16(found)


def open_images(config: RunConfig, *, quiet: bool = False, yes: bool = False) -> Dataset:
    """The images to train on; says what is downloaded or unpacked for them, and asks before it is much."""
    from ..data.contract import open_dataset

    with watching(quiet=quiet, yes=yes):
        return open_dataset(config.data, "train")


def open_training_images(config: RunConfig, *, quiet: bool = False, yes: bool = False) -> Datasets:
    """Both data sets, opened once, before torch loads, so that missing or malformed ones are reported at once.

    Raises UsageError for a model that is larger than the machine: only the data knows how many labels there are.
    """
    from ..data.contract import Datasets, open_dataset
    from ..data.notes import notes
    from ..estimation.fits import check_size

    images = open_images(config, quiet=quiet, yes=yes)
    if not len(images):
        raise DataError("the data set has no images to train on", "check its folder, or lower --set data.validation")
    datasets = Datasets(train=images, validation=open_dataset(config.data, "validation"))
    find_autoencoder(config, quiet=quiet, yes=yes)
    check_size(config, len(images.labels))
    for text in notes(images, config.data):
        console.say(text, quiet=quiet)
    if len(images.labels) == 1:
        console.say(f"warning: every image has the label {images.labels[0]!r}, so guidance has no effect", quiet=quiet)
    return datasets


def find_autoencoder(config: RunConfig, *, quiet: bool = False, yes: bool = False) -> None:
    """Download the autoencoder's files where they are needed and missing; raises DitkitError before torch loads."""
    if config.autoencoder.name != PIXEL:
        with watching(quiet=quiet, yes=yes):
            find_files(config)


@contextmanager
def watching(*, quiet: bool, yes: bool = False) -> Iterator[None]:
    """Within it, what is downloaded, unpacked or encoded is printed with its progress, and confirmed if it is much."""
    from ..io.progress import reporting_to
    from ..visual.progress import announced

    with reporting_to(None if quiet else announced, lambda text: _agreed(text, yes=yes)):
        yield


def _agreed(text: str, *, yes: bool) -> bool:
    """The user's answer; yes where there is nobody to ask, or several processes would ask at once."""
    asks = sys.stdin is not None and sys.stdin.isatty() and console.stderr().is_terminal and not launch.has_launcher()
    return console.agreed(f"{text}?", yes=yes or not asks)
