"""Device, dtype, autocast, free GPU memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import MachineError, UsageError, unknown
from .launch import launched, launched_here, local_rank

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def find_device(name: str = "auto") -> torch.device:
    """CUDA, else MPS, else the CPU; or the one named. Raises MachineError if that one is not there.

    Of several processes that a launcher started, each takes the CUDA device of its own number, or the only one that
    the launcher lets it see.
    """
    _, size = launched()
    if name == "auto":
        if torch.cuda.is_available():
            return find_device("cuda")
        # torch.distributed has no backend for MPS.
        return torch.device("mps" if size == 1 and torch.backends.mps.is_available() else "cpu")
    is_numbered, local_size = name.startswith("cuda:"), launched_here()
    if name == "cuda" and size > 1:
        has_its_own = "CUDA_VISIBLE_DEVICES" in os.environ and torch.cuda.device_count() == 1
        name = "cuda:0" if has_its_own else f"cuda:{local_rank() or 0}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, ("auto", "cpu", "cuda", "cuda:0", "mps")) from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False):
        raise MachineError(f"this machine has no {device.type} device that torch can use", "leave out --device")
    if is_numbered and local_size > 1:
        raise UsageError(f"{name} is one device for {local_size} processes", "leave out --device, or use --device cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        seen = torch.cuda.device_count()
        hint = f"start at most {seen} processes on this machine" if size > 1 else "use cuda:0"
        raise MachineError(f"there is no {name}: torch sees {seen} CUDA device(s)", hint)
    return device


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """The autocast precision: bfloat16 on CUDA that computes in it, float32 elsewhere; or the one named."""
    if name == "auto":
        fast = device.type == "cuda" and computes_bfloat16(device)
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise unknown("dtype", name, ("auto", *DTYPES))
    if name == "bfloat16" and device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise UsageError("bfloat16 on mps needs macOS 14 or later", "use --dtype float32")
    return DTYPES[name]


def allow_tf32(device: torch.device) -> None:
    """Let CUDA multiply float32 matrices as TF32: 10 bits of mantissa, several times as fast, where a GPU has it.

    The same in all that trains, draws, judges and estimates. It is torch's setting for the whole process, and
    NVIDIA_TF32_OVERRIDE=0 in the environment overrules it in NVIDIA's libraries.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a CUDA device has units for it; older ones compute it slowly, by way of float32."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


@contextlib.contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Matrix products in `dtype`; nothing changes for float32."""
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        yield


def gpu_model(device: torch.device) -> dict[str, str]:
    """The name of a CUDA device, as `gpu`; nothing of others."""
    return {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}


def resized(image_BCHW: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Images (B, C, H, W) at another size, antialiased; on the CPU for MPS, where older versions of torch cannot."""
    at_BCHW = image_BCHW.cpu() if image_BCHW.device.type == "mps" else image_BCHW
    resized_BCHW = functional.interpolate(at_BCHW, size, mode=mode, antialias=True, align_corners=False)
    return resized_BCHW.to(image_BCHW.device)


def free_bytes(device: torch.device) -> int:
    """Memory of a GPU that tensors may still take: what is free, and what torch holds without using it."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def give_back(device: torch.device) -> None:
    """Return what torch keeps of a GPU's memory without using it, after memory ran out."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def memory_mb(device: torch.device) -> float:
    """Peak memory so far in MB: torch's on CUDA, the process's resident set elsewhere (0 where it is unknown)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if os.name == "nt":
        import psutil

        return getattr(psutil.Process().memory_info(), "peak_wset", 0) / 2**20
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
