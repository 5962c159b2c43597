"""`ditkit doctor`: what is installed, what of it is broken, and what this machine has."""

from __future__ import annotations

import os
import platform
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated

import typer

from . import console
from .opt import examples, only
from .options import Output

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


@examples("ditkit doctor")
def run(output: Annotated[Output, only("runs_dir")]) -> None:
    """Say what is installed, what of it is broken, and what this machine has; a report for bug reports."""
    from .. import __version__

    console.data(f"ditkit {__version__}, Python {platform.python_version()}, {platform.platform()}")
    with console.loading_torch():
        broken = [name for name, module, needed in PARTS if not _report(name, module, needed=needed)]
    if "torch" not in broken:
        _devices()
    _folders(output.runs)
    if broken:
        console.data(f"broken: {', '.join(broken)}; `pip install --force-reinstall` what is needed, uninstall the rest")
        raise typer.Exit(6)


def _report(name: str, module: str, *, needed: bool) -> bool:
    """Print a line about one part; whether it is as it should be."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        console.data(f"{name}: missing" + ("" if needed else ", and not needed"))
        return not needed
    try:
        import_module(module)
    except Exception as error:  # whatever an extension module raises
        why = (str(error).splitlines() or [type(error).__name__])[0]
        console.data(f"{name} {version}: cannot be imported ({why})" + ("" if needed else "; ditkit does not need it"))
        return False
    console.data(f"{name} {version}")
    return True


def _devices() -> None:
    import torch

    from ..runtime.device import find_device, find_dtype
    from ..runtime.launch import launched

    device = find_device("auto")
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    dtype = str(find_dtype("auto", device)).removeprefix("torch.")
    console.data(f"trains on {device}{name} in {dtype}, {torch.get_num_threads()} threads")
    kinds = {"nccl": torch.distributed.is_nccl_available, "gloo": torch.distributed.is_gloo_available}
    links = [kind for kind, is_there in kinds.items() if torch.distributed.is_available() and is_there()]
    rank, size = launched()
    launch = f"; this is process {rank} of {size}" if size > 1 else ""
    console.data(f"several processes by {' or '.join(links) or 'nothing'}, {torch.cuda.device_count()} GPUs{launch}")


def _folders(runs: Path) -> None:
    from ..io.paths import cache_dir, free_disk, nearest_folder

    for name, folder in (("runs", runs), ("cache", cache_dir())):
        free = f"{(free_disk(folder) or 0) / 1e9:,.1f} GB free"
        writable = os.access(nearest_folder(folder), os.W_OK)
        console.data(f"{name} in {folder}: {free if writable else 'cannot be written to'}")
