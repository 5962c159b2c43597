"""This machine: its disk and caches, its speed against what was estimated, and what it is."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from .. import __version__, recipes
from ..estimation.report import estimate
from ..io import atomic
from ..io.paths import cache_dir, free_disk, nearest_folder
from ..io.text import format_size, plural
from ..runtime.memory import machine_memory, system_text
from ..runtime.threads import usable_cores
from .findings import Differs, NotTried, anonymous
from .runs import Runs
from .subject import Subject

_WRITTEN = 8 << 20  # bytes of a file
_LEAST_FREE = 1e9  # bytes
_MEMORY, _TIME = (0.4, 1.15), (0.4, 2.5)  # measured over estimated
_SHARE = {"cpu": (0.03, 1.1), "cuda": (0.05, 1.1)}  # of the peak, of a network that is large enough
_BUSY = "if nothing else uses this machine, report it"
_OTHER_RUNS, _OTHER_CACHE = "name another folder with --runs-dir", "name another folder with DITKIT_CACHE"
_PACKAGES = ("torch", "diffusers", "numpy", "safetensors")


def runs_disk_holds(subject: Subject) -> str:
    """The disk where runs are, or will be."""
    return _disk_holds(subject.runs, _OTHER_RUNS)


def cache_disk_holds(_subject: Subject) -> str:
    """The disk of the cache."""
    return _disk_holds(cache_dir(), _OTHER_CACHE)


def _disk_holds(folder: Path, hint: str) -> str:
    """Write a file as checkpoints are written, read it again, and look how much room is left."""
    content = os.urandom(_WRITTEN)
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix=".ditkit-try-", dir=nearest_folder(folder)) as place:
            file = Path(place) / "file"
            atomic.write_atomically(file, content)
            seconds, same = time.perf_counter() - began, atomic.sha256_of(file) == hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise Differs(f"cannot be written to: {error.strerror or error}", f"check its permissions, or {hint}") from None
    if not same:
        raise Differs("a file was not read back as it was written", hint)
    free = free_disk(folder)
    room = "" if free is None else f", {format_size(free)} free"
    if free is not None and free < _LEAST_FREE:
        raise Differs(f"only {format_size(free)} free", f"free some space, or {hint}")
    return f"{_WRITTEN >> 20} MB written and synced in {seconds:.2f} s{room}"


def memory_holds(runs: Runs) -> str:
    """Memory that was estimated against what the run took at most."""
    notes = _notes(runs)
    if not notes["memory"]:
        raise NotTried("the system does not say how much a process took")
    text = f"{format_size(notes['estimated_memory'])} estimated, {format_size(notes['memory'])} taken"
    low, high = _MEMORY
    if not low <= notes["memory"] / notes["estimated_memory"] <= high:
        raise Differs(text, "do not rely on `ditkit estimate` and --batch-size auto here; report it")
    return text


def time_holds(runs: Runs) -> str:
    """Time of a step that was estimated against what the run's steps took."""
    notes = _notes(runs)
    if not notes["estimated_step"]:
        raise NotTried("the network is estimated not to fit into memory")
    text = f"{1000 * notes['estimated_step']:,.3g} ms a step estimated, {1000 * notes['step']:,.3g} ms taken"
    low, high = _TIME
    if not low <= notes["step"] / notes["estimated_step"] <= high:
        raise Differs(text, _BUSY)
    return text


def _notes(runs: Runs) -> dict[str, float]:
    if not runs.notes:
        raise NotTried("the process that is killed has not come so far")
    return runs.notes


def share_holds(subject: Subject) -> str:
    """The share of the device's peak that training reaches, of a network that is large enough for the device."""
    kind = subject.device.type
    if kind not in _SHARE:
        raise NotTried(f"the peak of {kind} devices is not known")
    config = subject.config
    if kind == "cuda":
        model = {"preset": "dit-b/2"}
        config = recipes.load("paper", {"data": {"image_size": 32}, "model": model, "train": {"batch_size": 128}})
    report = estimate(config, labels=2, device=str(subject.device), seconds=2.0, folder=subject.folder)
    share = report["time"] and report["time"]["utilisation"]
    if share is None:
        raise NotTried("the peak of this device is not known, or the network does not fit")
    low, high = _SHARE[kind]
    text = f"{share:.0%} in {report['dtype']}"
    if not low <= share <= high:
        raise Differs(f"{text}, where {low:.0%} to {high:.0%} is usual", _BUSY)
    return text


def describe_machine(device: torch.device) -> dict[str, str]:
    """What to say of a machine in a bug report: no path, no name of a user or of the machine."""
    software = [f"ditkit {__version__}", f"Python {platform.python_version()}", *map(_version, _PACKAGES)]
    counts = [plural(len(usable_cores()), "core"), plural(torch.get_num_threads(), "thread")]
    memory = machine_memory()
    about = {
        "software": ", ".join(software),
        "system": platform.platform(),
        "processor": ", ".join([_processor(), *counts, *([format_size(memory)] if memory else [])]),
        "device": _describe_device(device),
    }
    return {name: anonymous(text) for name, text in about.items()}


def about_lines(about: dict[str, str], width: int = 80) -> Iterator[str]:
    """What `describe_machine` gives as lines no longer than `width`."""
    for name, text in about.items():
        yield from textwrap.wrap(f"{name}: {text}", width, subsequent_indent="  ", break_on_hyphens=False)


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"no {package}"


def _processor() -> str:
    """The processor's name, where the system says."""
    info = system_text(Path("/proc/cpuinfo"))
    named = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    if named:
        return named[1]
    if platform.system() == "Darwin":
        return _said(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    return platform.processor() or platform.machine()


def _describe_device(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    driver = _said(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    toolkit = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    size = format_size(properties.total_memory)
    return f"{device}, {properties.name}, {size}, driver {driver or 'unknown'}, {toolkit}"


def _said(command: list[str]) -> str:
    """The first line that a program prints; empty where there is none or it fails."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, timeout=10, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.decode("utf-8", "replace").splitlines() or [""])[0].strip() if not done.returncode else ""
