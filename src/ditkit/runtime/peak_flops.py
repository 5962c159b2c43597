"""Peak FLOP/s of this device, and which part of it a run uses."""

from __future__ import annotations

import functools
import re
import time
from dataclasses import dataclass

import torch

from ..config import RunConfig
from ..models.size import flops

_PROBE_SECONDS = 0.15
_FIRST, _LARGEST = 256, 2048  # sides of the matrices; small ones tell how large the others may be

# Dense TFLOP/s of the makers' data sheets, matrix units without sparsity: plain float32, TF32, bfloat16 (None: has
# none). The first name that the device's own name contains counts.
_DATA_SHEETS: tuple[tuple[str, float, float | None, float | None], ...] = (
    ("V100", 15.7, None, None),
    ("T4", 8.1, None, None),
    ("RTX 3090 Ti", 40, 40, 80),
    ("RTX 3090", 35.6, 35.6, 71),
    ("RTX 4080 SUPER", 52.2, 52.2, 104.4),
    ("RTX 4080", 48.7, 48.7, 97.5),
    ("RTX 4090 D", 73.5, 73.5, 147.1),
    ("RTX 4090", 82.6, 82.6, 165.2),
    ("RTX 5090", 104.8, 104.8, 209.5),
    ("RTX A6000", 38.7, 77.4, 154.8),
    ("RTX 6000 Ada", 91.1, 182.1, 364.2),
    ("A100", 19.5, 156, 312),
    ("A800", 19.5, 156, 312),
    ("A10G", 35, 35, 70),
    ("A10", 31.2, 62.5, 125),
    ("A30", 10.3, 82, 165),
    ("A40", 37.4, 74.8, 149.7),
    ("L40S", 91.6, 183, 362),
    ("L40", 90.5, 90.5, 181),
    ("L4", 30.3, 60, 121),
    ("H100 PCIe", 51, 378, 756),
    ("H100 NVL", 60, 417.5, 835.5),
    ("H100", 67, 494.7, 989.4),
    ("H800", 67, 494.7, 989.4),
    ("H20", 44, 74, 148),
    ("H200 NVL", 60, 417.5, 835.5),
    ("H200", 67, 494.7, 989.4),
    ("GH200", 67, 494.7, 989.4),
    ("GB200", 80, 1250, 2500),
    ("GB300", 80, 1250, 2500),
    ("B300", 75, 1125, 2250),
    ("B200", 75, 1125, 2250),
)

# Laptops are slower than the card of the same name, and an instance of MIG is a part of one.
_IS_LESS = re.compile(r"\b(Laptop|Max-Q|MIG)\b")


@dataclass(frozen=True, kw_only=True)
class Utilization:
    """Turns images per second into a part of the device's peak."""

    image_flops: float  # of training on one image: forward, and twice that for backward
    peak: float | None  # FLOP/s of all processes together; None where it is unknown

    def of_peak(self, images_per_second: float) -> float | None:
        return self.image_flops * images_per_second / self.peak if self.peak else None


def open_utilization(config: RunConfig, device: torch.device, dtype: torch.dtype, processes: int = 1) -> Utilization:
    """That of a run; on a CPU the first call of a process measures the peak, in a few tenths of a second."""
    peak = peak_flops(device, dtype)
    return Utilization(image_flops=3 * forward_flops(config), peak=peak * processes if peak else None)


def forward_flops(config: RunConfig) -> int:
    """Floating-point operations of one image's forward pass: two for each multiply-add."""
    channels, height, width = config.shape
    return 2 * flops(config.model, channels=channels, size=(height, width))


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s of matrix products: measured on a CPU, of the data sheet on a GPU; None for a GPU that is not listed."""
    if device.type == "cpu":
        return _peak_of_process(dtype, torch.get_num_threads())
    if device.type != "cuda":
        return None
    tf32 = torch.get_float32_matmul_precision() != "highest"
    return data_sheet(torch.cuda.get_device_name(device), dtype, tf32=tf32)


def data_sheet(name: str, dtype: torch.dtype, *, tf32: bool) -> float | None:
    """FLOP/s of a GPU by its name, as `torch.cuda.get_device_name` has it; None for a part or a slower kin of one."""
    if _IS_LESS.search(name):
        return None
    for model, plain, fast, half in _DATA_SHEETS:
        if f" {model} " in f" {name.replace('-', ' ')} ":
            teraflops = half if dtype == torch.bfloat16 else (fast if tf32 and fast else plain)
            return teraflops * 1e12 if teraflops else None
    return None


@functools.cache
def _peak_of_process(dtype: torch.dtype, threads: int) -> float:
    """`measured_peak`, once for each number of threads that torch uses."""
    return measured_peak(dtype)


@torch.no_grad()
def measured_peak(dtype: torch.dtype) -> float:
    """The best of some square products on this CPU, with the threads that torch uses; no random number is drawn."""
    side, best = _FIRST, 0.0
    while True:
        matrix = torch.full((side, side), 0.5, dtype=dtype)
        result = torch.empty_like(matrix)
        torch.mm(matrix, matrix, out=result)  # the first one sets things up
        began = time.perf_counter()
        spent = 0.0
        while spent < _PROBE_SECONDS / 4:
            start = time.perf_counter()
            torch.mm(matrix, matrix, out=result)
            now = time.perf_counter()
            best = max(best, 2 * side**3 / max(now - start, 1e-9))
            spent = now - began
        larger = min(2 * side, _LARGEST)
        if larger == side or 3 * 2 * larger**3 / best > _PROBE_SECONDS / 2:
            return best
        side = larger
