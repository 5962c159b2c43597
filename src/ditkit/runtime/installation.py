"""What is installed, what of it is broken, and what this machine has."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

from .. import __version__
from ..io.paths import cache_dir, free_disk, nearest_folder
from ..io.text import plural

# Distribution, module that must import, and whether ditkit needs it.
PARTS = (
    ("torch", "torch", True),
    ("diffusers", "diffusers.schedulers.scheduling_dpmsolver_multistep", True),
    ("safetensors", "safetensors.torch", True),
    ("numpy", "numpy", True),
    ("pillow", "PIL.Image", True),
    ("matplotlib", "matplotlib", True),
    ("pydantic", "pydantic", True),
    ("huggingface_hub", "huggingface_hub.hf_api", True),
    ("pyarrow", "pyarrow.parquet", True),
    ("torchvision", "torchvision", False),
    ("accelerate", "accelerate", False),
    ("jax", "jax", False),
    ("optax", "optax", False),
)


def describe_software() -> str:
    """The versions of ditkit, Python and the system."""
    return f"ditkit {__version__}, Python {platform.python_version()}, {platform.platform()}"


def describe_part(name: str, module: str, *, needed: bool) -> tuple[str, bool]:
    """A line about one part, and whether it is as it should be."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name}: missing" + ("" if needed else ", and not needed"), not needed
    try:
        import_module(module)
    except Exception as error:  # whatever an extension module raises
        why = (str(error).splitlines() or [type(error).__name__])[0]
        return f"{name} {version}: cannot be imported ({why})" + ("" if needed else "; ditkit does not need it"), False
    return f"{name} {version}", True


def describe_devices(name: str = "auto") -> Iterator[str]:
    """What trains here, in which numbers, and how several processes would talk. Loads torch."""
    import torch

    from .device import find_device, find_dtype
    from .launch import launched

    device = find_device(name)
    model = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    dtype = str(find_dtype("auto", device)).removeprefix("torch.")
    yield f"trains on {device}{model} in {dtype}, {plural(torch.get_num_threads(), 'thread')}"
    yield f"kernels for the CPU: {_describe_kernels()}"
    kinds = {"nccl": torch.distributed.is_nccl_available, "gloo": torch.distributed.is_gloo_available}
    links = [kind for kind, is_there in kinds.items() if torch.distributed.is_available() and is_there()]
    rank, size = launched()
    launch = f"; this is process {rank} of {size}" if size > 1 else ""
    yield f"several processes by {' or '.join(links) or 'nothing'}, {plural(torch.cuda.device_count(), 'GPU')}{launch}"


def _describe_kernels() -> str:
    from ..kernels.choice import computes_bfloat16
    from ..kernels.library import KernelsUnavailable, library_name

    try:
        name = library_name()
    except KernelsUnavailable as error:
        return f"none, so that steps take about twice as long: {error}"
    return f"compiled ({name}), in float32{' and bfloat16' if computes_bfloat16() else ''}"


def describe_folders(runs: Path) -> Iterator[str]:
    """How much room there is for runs and in the cache, and whether they can be written to."""
    for name, folder in (("runs", runs), ("cache", cache_dir())):
        free = f"{(free_disk(folder) or 0) / 1e9:,.1f} GB free"
        writable = os.access(nearest_folder(folder), os.W_OK)
        yield f"{name} in {folder}: {free if writable else 'cannot be written to'}"
