"""Machine, free and cgroup memory."""

from __future__ import annotations

import os
from pathlib import Path

_LARGEST_GPU = 288 * 10**9  # bytes; how much a GPU really has is known only once torch is there
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dri/renderD128")


def machine_memory() -> int | None:
    """Bytes of memory that this process may use at most; None where the system does not say."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return min([physical, *_container_limits()]) if physical > 0 else None


def free_memory(held: int = 0) -> int | None:
    """Bytes that this process may have, `held` of them already; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    return found[0] + held if found else None


def _container_limits() -> list[int]:
    """Memory limits of the control groups that this process is in, of both versions of Linux's interface."""
    limits = []
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    for group in groups:
        _, controllers, place = group.split(":", 2) if group.count(":") >= 2 else ("", "-", "")
        if controllers == "":
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        inner = root / place.lstrip("/")
        for folder in (inner, *inner.parents):
            limits += _number_in(folder / name)
            if folder == root:
                break
    return limits


def _number_in(path: Path) -> list[int]:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return []
    return [int(text)] if text.isdigit() and 0 < len(text) < 20 else []
