"""Estimate(): all of it as data and words."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli import console

if TYPE_CHECKING:
    from ..config import RunConfig
    from .memory import RunSetup

_NAMES = {
    "weights": "weights",
    "gradients": "gradients",
    "optimiser": "optimiser",
    "ema": "moving average",
    "activations": "activations",
    "scattered": "allocator's gaps",
    "drawing": "sample grids, beyond",
    "batches": "batches",
    "images": "images that are kept",
    "process": "the process itself",
}


def _counted(config: RunConfig, *, quiet: bool) -> tuple[int, int | None]:
    """Labels and images of the data set; guessed, and None, where it is not here yet."""
    from ..cli.datasets import find_autoencoder, open_images
    from ..errors import DataError, MachineError
    from ..io.download import offline_within

    try:
        with offline_within():
            dataset = open_images(config, quiet=quiet)
            find_autoencoder(config, quiet=quiet)
    except (DataError, MachineError) as error:
        if isinstance(error, DataError) and config.data.path is not None:
            raise
        console.say(f"the images are not here ({error.message}): counted with 2 labels", quiet=quiet)
        return 2, None
    return len(dataset.labels), len(dataset)


def estimate_run(
    config: RunConfig,
    labels: int,
    images: int | None,
    *,
    folder: Path,
    device: str,
    dtype: str,
    seconds: float | None,
    quiet: bool,
) -> dict[str, Any]:
    """Everything about a run as plain values, as --json prints it; `seconds` are for steps on trial, None for none."""
    setting, there = _setting(config, labels, images, device, dtype, quiet=quiet)
    from ..io import paths
    from ..models import size as models_size
    from ..training.setup import forward_flops
    from . import memory as estimation_memory

    parts = estimation_memory.usual_parts(setting)
    with console.spinner("counting …", quiet=quiet):
        memory = estimation_memory.memory_needed(setting, parts)
        fits = None if there is None else memory.total <= there
        fitting = estimation_memory.fitting_parts(setting, there) if there is not None and not fits else None
    disk, room = estimation_memory.disk(config, labels, images or 0), paths.free_disk(folder)
    return {
        "parameters": models_size.parameters(config, labels),
        "device": str(setting.device),
        "dtype": str(setting.dtype).removeprefix("torch."),
        "steps": config.train.steps,
        "batch_size": config.train.batch_size,
        "parts": parts,
        "images": images,
        "labels": labels,
        "flops_per_image": {"forward": forward_flops(config), "training": 3 * forward_flops(config)},
        "memory": {**asdict(memory), "total": memory.total, "available": there},
        "disk": {**asdict(disk), "total": disk.total, "free": room},
        "fits": fits,
        "fits_with_accumulate": fitting,
        "fits_on_disk": None if room is None else disk.total <= room,
        "time": _tried(setting, parts, seconds, quiet=quiet) if seconds and fits is not False else None,
    }


def _setting(
    config: RunConfig, labels: int, images: int | None, device: str, dtype: str, *, quiet: bool
) -> tuple[RunSetup, int | None]:
    """All that memory depends on, and how much there is."""
    from ..runtime.threads import calm_threads, choose_threads, take_threads

    threads = choose_threads()
    calm_threads(threads)
    with console.loading_torch(quiet=quiet):
        from ..data.resident import free_store_bytes
        from ..runtime.device import find_device, find_dtype
        from ..runtime.launch import launched
        from . import memory as estimation_memory
        from .speed import process_bytes

        take_threads(threads)
        where = find_device(device)
        held = process_bytes(config if images else None)
    setting = estimation_memory.RunSetup(
        config=config,
        labels=labels,
        images=images or 0,
        device=where,
        dtype=find_dtype(dtype, where),
        processes=launched()[1],
        process_bytes=held,
        room=free_store_bytes(where),
    )
    return setting, estimation_memory.available_memory(where, held)


def _tried(setting: RunSetup, parts: int, seconds: float, *, quiet: bool) -> dict[str, Any]:
    from ..training.setup import open_utilization
    from .speed import measure

    with console.spinner("taking a few steps on trial …", quiet=quiet):
        gauge = open_utilization(setting.config, setting.device, setting.dtype, setting.processes)
        return asdict(measure(setting, parts, gauge, seconds))


def fitted(
    config: RunConfig, labels: int, images: int, *, device: str, dtype: str, at_least: int, quiet: bool
) -> RunConfig:
    """The same settings, with a batch in as few parts as fit into memory. Raises UsageError if none do."""
    from ..errors import UsageError
    from ..io.text import format_size

    setting, there = _setting(config, labels, images, device, dtype, quiet=quiet)
    from . import memory as estimation_memory

    usual = max(estimation_memory.usual_parts(setting), at_least)
    parts = usual if there is None else estimation_memory.fitting_parts(setting, there, at_least)
    batch = config.train.batch_size
    if parts is None:
        raise UsageError(
            f"not even one image at a time fits into the {format_size(there or 0)} that are free",
            "choose a smaller model or image size (--set model.preset=…, --image-size …)",
        )
    memory = format_size(estimation_memory.memory_needed(setting, parts).total) + _of(there)
    console.say(f"batch of {batch} in {parts} parts: takes {memory}" if parts > 1 else f"batch of {batch}: {memory}")
    return replace(config, train=replace(config.train, accumulate=at_least if parts == usual else parts))


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report in words and columns."""
    from ..io.text import format_size

    flops, memory, disk = report["flops_per_image"], report["memory"], report["disk"]
    parts = [f"{format_size(memory[key]):>10}  {name}" for key, name in _NAMES.items() if memory[key]]
    images = "" if report["images"] is None else f", {report['images']:,} images"
    return [
        f"{report['parameters'] / 1e6:.2f}M parameters, {report['labels']} labels{images}",
        f"{flops['forward'] / 1e9:.3g} GFLOP an image forward, {flops['training'] / 1e9:.3g} in training",
        f"{report['steps']:,} steps of {_batch(report)} images on {report['device']} ({report['dtype']})",
        "",
        "memory:",
        *parts,
        f"{format_size(memory['total']):>10}  in all" + _of(memory["available"]),
        "disk:",
        f"{format_size(disk['checkpoint']):>10}  a checkpoint",
        *(
            f"{format_size(disk[key]):>10}  {name}"
            for key, name in (
                ("checkpoints", "checkpoints, with one that is being written"),
                ("metrics", "metrics"),
                ("samples", "sample grids, about"),
                ("snapshots", "snapshots of the averages"),
                ("latents", "latents, once for all runs on these images"),
            )
            if disk[key]
        ),
        f"{format_size(disk['total']):>10}  in all" + _of(disk["free"]),
        *(_time(report["time"], report["steps"]) if report["time"] else []),
        "",
        verdict(report),
    ]


def _of(there: int | None) -> str:
    from ..io.text import format_size

    return f", of {format_size(there)} that are free" if there is not None else ""


def _batch(report: dict[str, Any]) -> str:
    size, parts = report["batch_size"], report["parts"]
    return f"{size}" if parts == 1 else f"{size} (in {parts} parts)"


def _time(time: dict[str, Any], steps: int) -> list[str]:
    from ..io.text import format_duration

    used = f", {time['utilisation']:.0%} of the device's peak" if time["utilisation"] is not None else ""
    used += "" if time["tried"] else " as a guess: one image takes too long to try"
    speed = f"{time['images_per_second']:,.3g} images/s{used}"
    shares = [(steps * time["step"], "steps"), (time["validation"], "validation"), (time["drawing"], "sample grids")]
    shares.append((time["saving"], "saving"))
    spoken = ", ".join(f"{name} {format_duration(seconds)}" for seconds, name in shares)
    return [
        "time:",
        f"{1000 * time['step']:>7,.0f} ms  a step, {speed}",
        f"{format_duration(time['total']):>10}  to the end: {spoken}",
    ]


def verdict(report: dict[str, Any]) -> str:
    """Whether it fits, and what to do if not."""
    batch, parts = report["batch_size"], report["fits_with_accumulate"]
    if report["fits_on_disk"] is False and report["fits"] is not False:
        return "does not fit on the disk: free some space, lower train.keep, or choose another --runs-dir"
    if report["fits"] is None:
        return "nobody says how much memory there is"
    if report["fits"]:
        return "fits"
    if parts is None:
        return "does not fit: not even one image at a time; choose a smaller model or image size"
    return f"does not fit: use batch {batch // parts} × {parts} (--set train.accumulate={parts}, or --batch-size auto)"
