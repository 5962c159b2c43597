"""Estimate(): all of it as data and words."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..autoencoders.files import PIXEL, find_files
from ..config import RunConfig
from ..data.contract import Datasets
from ..errors import DataError, MachineError, UsageError
from ..io import paths
from ..io.download import offline_within
from ..io.progress import LOADING_TORCH, Watch, no_progress, notify
from ..io.text import format_count, format_duration, format_size, parameter_count, plural
from ..models.size import parameters
from ..runs.folder import RunFolder
from ..runtime.launch import launched

if TYPE_CHECKING:
    from .memory import Memory, RunSetup

_MEMORY = {
    "weights": "weights",
    "gradients": "gradients",
    "exchange": "gradients on their way to other processes",
    "optimiser": "optimiser",
    "ema": "moving average",
    "activations": "activations",
    "scattered": "allocator's gaps",
    "drawing": "sample grids, beyond",
    "batches": "batches",
    "images": "images that are kept",
    "process": "the process itself",
}
_DISK = {
    "checkpoints": "checkpoints, with one that is being written",
    "metrics": "metrics",
    "samples": "sample grids, about",
    "snapshots": "snapshots of the averages",
    "latents": "latents, once for all runs on these images",
}


def estimate(
    config: RunConfig,
    *,
    datasets: Datasets | None = None,
    labels: int | None = None,
    images: int | None = None,
    folder: str | Path = "runs",
    device: str = "auto",
    dtype: str = "auto",
    seconds: float | None = 10.0,
    progress: Watch = no_progress,
) -> dict[str, Any]:
    """What a run will take: memory, disk, time, and whether it fits. Nothing is downloaded, nothing is left behind.

    Args:
        config: the settings of the run.
        datasets: those of the config, where they are open already.
        labels: of the data set; counted in it if None, as is the number of `images`.
        images: in the data set; None if unknown.
        folder: where the run would be written, for the free space there.
        dtype: auto, float32 or bfloat16.
        seconds: for a few training steps on made-up images, which measure the speed; None measures none.
        progress: shown what is being done.

    Returns:
        Plain values, as `ditkit estimate --json` prints them; sizes in bytes, times in seconds. `report_lines` puts
        them into words.

    Raises:
        DataError: where `config.data.path` names images that are missing or malformed.
        MachineError: for a device that is not there.
    """
    if datasets:
        labels, images = len(datasets.train.labels), len(datasets.train)
    elif labels is None:
        labels, images = count(config)
    setup, available = _setup(config, labels, images, device, dtype, progress, is_open=datasets is not None)
    from ..runtime.peak_flops import forward_flops
    from .memory import disk, usual_parts

    parts = usual_parts(setup)
    memory, fits, fitting = _memory(setup, parts, available, progress)
    on_disk, free = disk(config, labels, images or 0), paths.free_disk(Path(folder))
    return {
        "parameters": parameters(config, labels),
        "device": str(setup.device),
        "dtype": str(setup.dtype).removeprefix("torch."),
        "steps": config.train.steps,
        "batch_size": config.train.batch_size,
        "parts": parts,
        "images": images,
        "labels": labels,
        "flops_per_image": {"forward": forward_flops(config), "training": 3 * forward_flops(config)},
        "memory": {**asdict(memory), "total": memory.total, "available": available},
        "disk": {**asdict(on_disk), "total": on_disk.total, "free": free},
        "fits": fits,
        "fits_with_accumulate": fitting,
        "fits_on_disk": None if free is None else on_disk.total <= free,
        "time": _measured(setup, parts, seconds, progress) if seconds and fits is not False else None,
    }


def count(config: RunConfig) -> tuple[int, int | None]:
    """Labels and images of the data set; 2 and None where it would have to be downloaded, which is reported.

    Raises DataError where `config.data.path` names images that are missing or malformed.
    """
    from ..data.contract import open_dataset

    try:
        with offline_within():
            dataset = open_dataset(config.data, "train")
            if config.autoencoder.name != PIXEL:
                find_files(config)
    except (DataError, MachineError) as error:
        if isinstance(error, DataError) and config.data.path is not None:
            raise
        notify(f"the images are not here ({error.message}): counted with 2 labels")
        return 2, None
    return len(dataset.labels), len(dataset)


def fitted(
    config: RunConfig,
    datasets: Datasets,
    *,
    device: str,
    dtype: str,
    run: RunFolder | None = None,
    progress: Watch = no_progress,
) -> tuple[RunConfig, str]:
    """The same settings with a batch in as few parts as fit into memory, and what it takes in words.

    A run that is continued keeps at least as many parts as it has. Raises UsageError if not even one image at a time
    fits.
    """
    parts = run.read_config().train.accumulate if run else 1
    at_least = config.train.accumulate
    if config.train.batch_size % parts == 0:
        at_least = max(at_least, parts)
    labels, images = len(datasets.train.labels), len(datasets.train)
    setup, available = _setup(config, labels, images, device, dtype, progress, is_open=True)
    from .memory import fitting_parts, memory_needed, usual_parts

    usual = max(usual_parts(setup), at_least)
    parts = usual if available is None else fitting_parts(setup, available, at_least)
    batch = config.train.batch_size
    if parts is None:
        raise UsageError(
            f"not even one image at a time fits into the {format_size(available or 0)} that are free",
            "choose a smaller model or image size (--set model.preset=…, --image-size …)",
        )
    memory = format_size(memory_needed(setup, parts).total) + _of(available)
    text = f"batch of {batch} in {parts} parts: takes {memory}" if parts > 1 else f"batch of {batch}: {memory}"
    return replace(config, train=replace(config.train, accumulate=at_least if parts == usual else parts)), text


def _setup(
    config: RunConfig, labels: int, images: int | None, device: str, dtype: str, progress: Watch, *, is_open: bool
) -> tuple[RunSetup, int | None]:
    """All that memory depends on, and how many bytes are available."""
    with progress(LOADING_TORCH):
        from ..data.resident import free_store_bytes
        from ..kernels.choice import choose
        from ..runtime.device import find_device
        from .memory import RunSetup, available_memory
        from .speed import process_bytes

        place = find_device(device)
        taken = process_bytes(config if images else None, is_open=is_open)
        compute = choose(config, place, dtype)
    setup = RunSetup(
        config=config,
        labels=labels,
        images=images or 0,
        device=place,
        dtype=compute.dtype,
        kernels=compute.kernels,
        processes=launched()[1],
        process_bytes=taken,
        room=free_store_bytes(place),
    )
    return setup, available_memory(place, taken)


def _memory(
    setup: RunSetup, parts: int, available: int | None, progress: Watch
) -> tuple[Memory, bool | None, int | None]:
    """What a batch in `parts` takes, whether it fits, and the parts that would where these do not."""
    from .memory import fitting_parts, memory_needed

    with progress("counting …"):
        memory = memory_needed(setup, parts)
        if available is None:
            return memory, None, None
        fits = memory.total <= available
        return memory, fits, None if fits else fitting_parts(setup, available)


def _measured(setup: RunSetup, parts: int, seconds: float, progress: Watch) -> dict[str, Any]:
    import torch

    from ..runtime.compile import pays_back
    from ..runtime.peak_flops import open_utilization
    from .speed import measure

    with progress("taking a few steps on trial …"):
        gauge = open_utilization(setup.config, setup.device, setup.dtype, setup.processes)
        timing = asdict(measure(setup, parts, gauge, seconds))
    return {**timing, "compiles": pays_back(setup.config, setup.device, torch.get_num_threads())}


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report in words and columns."""
    flops, memory, disk = report["flops_per_image"], report["memory"], report["disk"]
    parts = [f"{format_size(memory[key]):>10}  {name}" for key, name in _MEMORY.items() if memory[key]]
    images = "" if report["images"] is None else f", {plural(report['images'], 'image')}"
    return [
        f"{parameter_count(report['parameters'])}, {plural(report['labels'], 'label')}{images}",
        f"{format_count(flops['forward'])}FLOP an image forward, {format_count(flops['training'])}FLOP in training",
        f"{plural(report['steps'], 'step')} of {_batch(report)} images on {report['device']} ({report['dtype']})",
        "",
        "memory:",
        *parts,
        f"{format_size(memory['total']):>10}  in all" + _of(memory["available"]),
        "disk:",
        f"{format_size(disk['checkpoint']):>10}  a checkpoint",
        *(f"{format_size(disk[key]):>10}  {name}" for key, name in _DISK.items() if disk[key]),
        f"{format_size(disk['total']):>10}  in all" + _of(disk["free"]),
        *(_time(report["time"], report["steps"]) if report["time"] else []),
        "",
        verdict(report),
    ]


def _of(available: int | None) -> str:
    return f", of {format_size(available)} that are free" if available is not None else ""


def _batch(report: dict[str, Any]) -> str:
    size, parts = report["batch_size"], report["parts"]
    return f"{size}" if parts == 1 else f"{size} (in {parts} parts)"


def _time(time: dict[str, Any], steps: int) -> list[str]:
    used = f", {time['utilisation']:.0%} of the device's peak" if time["utilisation"] is not None else ""
    used += "" if time["tried"] else " as a guess: one image takes too long to try"
    speed = f"{time['images_per_second']:,.3g} images/s{used}"
    shares = [(steps * time["step"], "steps"), (time["validation"], "validation"), (time["drawing"], "sample grids")]
    shares.append((time["saving"], "saving"))
    parts = ", ".join(f"{name} {format_duration(seconds)}" for seconds, name in shares)
    return [
        "time:",
        f"{1000 * time['step']:>7,.0f} ms  a step, {speed}",
        f"{format_duration(time['total']):>10}  to the end: {parts}",
        *(["            without compiling, which training does: its steps are faster"] if time["compiles"] else []),
    ]


def verdict(report: dict[str, Any]) -> str:
    """Whether it fits, and what to do if not."""
    batch, parts = report["batch_size"], report["fits_with_accumulate"]
    if report["fits_on_disk"] is False and report["fits"] is not False:
        return "does not fit on the disk: free some space, lower train.keep, or choose another --runs-dir"
    if report["fits"] is None:
        return "the amount of memory is unknown"
    if report["fits"]:
        return "fits"
    if parts is None:
        return "does not fit: not even one image at a time; choose a smaller model or image size"
    return f"does not fit: use batch {batch // parts} × {parts} (--set train.accumulate={parts}, or --batch-size auto)"
