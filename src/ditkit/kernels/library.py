"""The kernels' library: compiled once for this processor, kept in the cache, loaded beside torch."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch

from ..errors import MachineError
from ..io import atomic
from ..io.paths import private_folder
from ..runtime.memory import system_text
from .arguments import STRUCTS

_SOURCE = Path(__file__).parent / "source"
# Sums may be added up in another order only where a loop says so (omp simd): a NaN stays one, and so does 0 - 0.
_FLAGS = ("-O3", "-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_SHARED = ("-fvisibility=hidden", "-shared", "-fPIC")
_SECONDS = 120  # after which a compiler counts as broken
_ENDING = ".dylib" if sys.platform == "darwin" else ".so"


class KernelsUnavailable(Exception):
    """The kernels cannot be used here; says why, in a few words."""


@lru_cache(maxsize=1)
def open_library() -> ctypes.CDLL:
    """The library of the kernels. Raises KernelsUnavailable where it can be neither found nor compiled."""
    if os.name == "nt":
        raise KernelsUnavailable("they are not built for Windows")
    library = _load(_compiled())
    for number, struct in enumerate(STRUCTS):
        if library.size_of(number) != ctypes.sizeof(struct):
            raise KernelsUnavailable(f"the compiler lays out {struct.__name__} in another way")
    library.use_openmp(*_openmp())
    return library


def library_name() -> str:
    """The name of the library's file, which changes with its source, the compiler and the processor."""
    return Path(open_library()._name).name


def _load(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
        library.size_of.restype = library.attention_scratch.restype = ctypes.c_int64
        library.use_openmp.argtypes = [ctypes.c_void_p] * 3
    except (OSError, AttributeError) as error:
        raise KernelsUnavailable(f"their library cannot be loaded: {error}") from None
    return library


def _compiled() -> Path:
    """The library in the cache, compiled where it is not there yet; its name holds its own hash, which is checked."""
    command, version = _compiler()
    sources = [file.read_bytes() for file in sorted(_SOURCE.iterdir())]
    inputs = "\n".join([*command, version, _processor()]).encode()
    key = hashlib.sha256(b"\0".join([inputs, *sources])).hexdigest()[:20]
    try:
        folder = private_folder("kernels")
    except MachineError:  # a cache that cannot be written to: compiled for this process alone
        folder = Path(tempfile.mkdtemp(prefix="ditkit-kernels-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path in sorted(folder.glob(f"{key}-*{_ENDING}")):
        if path.stem == f"{key}-{_digest(path.read_bytes())}":
            return path
    content = _compile(command)
    path = folder / f"{key}-{_digest(content)}{_ENDING}"
    try:
        atomic.write_atomically(path, content)
    except OSError as error:
        raise KernelsUnavailable(f"{path.parent} cannot be written to: {error.strerror}") from None
    return path


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


def _compile(command: list[str]) -> bytes:
    """The library's bytes."""
    with tempfile.TemporaryDirectory(prefix="ditkit-kernels-") as folder:
        out = Path(folder) / f"kernels{_ENDING}"
        arguments = [*command, str(_SOURCE / "kernels.c"), "-o", str(out), "-lm"]
        try:
            done = subprocess.run(arguments, capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise KernelsUnavailable(f"the compiler {command[0]} does not work: {error}") from None
        if done.returncode or not out.is_file():
            lines = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
            why = lines[0][:200] if lines else f"it ended with {done.returncode}"
            raise KernelsUnavailable(f"the compiler {command[0]} does not work: {why}")
        return out.read_bytes()


def _compiler() -> tuple[list[str], str]:
    """The command that compiles a library for this processor, without its files, and the compiler's version."""
    names = [word for word in (os.environ.get("CC"), "cc", "gcc", "clang") if word]
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        raise KernelsUnavailable("there is no C compiler (cc, gcc or clang)")
    native = "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native"
    architecture = os.environ.get("DITKIT_KERNELS_ARCH", native)
    try:
        done = subprocess.run([found, "--version"], capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelsUnavailable(f"the compiler {found} does not work: {error}") from None
    return [found, *_FLAGS, architecture, *_SHARED], done.stdout.decode("utf-8", "replace")


def _processor() -> str:
    """What `native` means: the processor's name and what it can compute."""
    info = system_text(Path("/proc/cpuinfo"))
    lines = re.findall(r"^(?:model name|flags|Features|CPU part)\s*:.*$", info, re.MULTILINE)
    return "\n".join([platform.machine(), platform.processor(), *dict.fromkeys(lines)])


def _openmp() -> tuple[int | None, int | None, int | None]:
    """The functions of the OpenMP runtime that torch computes with: a second one would bring threads of its own."""
    for runtime in _runtimes():
        try:
            names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
            start, thread, threads = (ctypes.cast(getattr(runtime, name), ctypes.c_void_p).value for name in names)
        except AttributeError:
            continue
        return start, thread, threads
    return None, None, None


def _runtimes() -> Iterator[ctypes.CDLL]:
    """Libraries of OpenMP that this process has loaded; those of torch first."""
    folder = Path(torch.__file__).parent / "lib"
    for path in (*sorted(folder.glob("lib*omp*")), *sorted(folder.parent.glob("../torch.libs/lib*omp*"))):
        with contextlib.suppress(OSError):
            yield ctypes.CDLL(str(path), mode=getattr(os, "RTLD_NOLOAD", 0) | os.RTLD_NOW)
    yield ctypes.CDLL(None)
