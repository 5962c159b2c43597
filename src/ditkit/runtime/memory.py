"""Memory of this machine, and what its control groups (containers) leave of it and of its cores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_LARGEST_GPU = 288 * 10**9  # bytes; how much a GPU really has is known only once torch is there
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dri/renderD128")


def machine_memory() -> int | None:
    """Bytes of memory that this process may use at most; None where the system does not say."""
    physical = _virtual_memory("total")
    return min([physical, *_container_limits()]) if physical else None


def free_memory(held: int = 0) -> int | None:
    """Bytes that this process may have, `held` of them already; None where the system does not say."""
    available = _virtual_memory("available")
    return None if available is None else available + held


def _virtual_memory(field: str) -> int | None:
    try:
        import psutil

        return int(getattr(psutil.virtual_memory(), field))
    except (ImportError, OSError, RuntimeError, ValueError):  # psutil cannot read what this system says
        return None


def _container_limits(*system: Path) -> list[int]:
    """Memory limits of the control groups that this process is in, which psutil does not see."""
    texts = (
        system_text(folder / name)
        for folder in control_groups("memory", *system)
        for name in ("memory.max", "memory.limit_in_bytes")
    )
    return [int(text) for text in texts if text.isdigit() and 0 < len(text) < 20]


def control_groups(
    controller: str, root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")
) -> Iterator[Path]:
    """Folders of the control groups that limit this process's cpu or memory, from the innermost outwards.

    Linux has two interfaces: version 2 is one tree, version 1 a tree for each controller (`cpu`, or `cpu,cpuacct`).
    """
    for line in system_text(groups).splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "-", "")
        if controllers == "":
            tops = [root]
        elif controller in controllers.split(","):
            tops = [root / name for name in dict.fromkeys((controller, controllers))]
        else:
            continue
        for top in tops:
            innermost = top / path.lstrip("/")
            for folder in (innermost, *innermost.parents):
                yield folder
                if folder == top:
                    break


def system_text(path: Path) -> str:
    """The text of a small system file; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
