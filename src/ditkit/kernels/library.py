"""The kernels' library: compiled once for this processor, kept in the cache, loaded beside torch."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import torch

from ..errors import MachineError
from ..io import atomic
from ..io.paths import private_folder
from . import compiler
from .arguments import STRUCTS
from .compiler import KernelsUnavailable

_SECONDS = 60  # after which a library that is being loaded counts as damaged
_NONE = "there is no C compiler (cc, gcc or clang)"


def open_library() -> ctypes.CDLL:
    """The library of the kernels. Raises KernelsUnavailable where it can be neither compiled nor found."""
    library = _library()
    if isinstance(library, str):
        raise KernelsUnavailable(library)
    return library


def library_name() -> str:
    """The name of the library, which changes with its content and the processor."""
    path = Path(open_library()._name)
    if path in compiler.prebuilt_libraries():
        return f"{path.stem}-{_digest(path.read_bytes() + compiler.processor().encode())}"
    return path.stem


def fingerprint() -> str:
    """Eight letters that change with the library and the processor, and so with the last bits of what it computes."""
    return _digest(library_name().encode())[:8]


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | str:
    """The library, or why there is none: what the first compiler says, which is tried once in a process."""
    if os.name == "nt":
        return "they are not built for Windows"
    by_compilers = [partial(_compiled, command) for command in compiler.compilers()]
    ready = [partial(_tried, path) for path in compiler.prebuilt_libraries()]
    reasons = [] if by_compilers else [_NONE]
    ways: list[Callable[[], ctypes.CDLL]] = [*by_compilers, *ready]
    for way in ways:
        try:
            library = way()
        except KernelsUnavailable as error:
            reasons.append(str(error))
        else:
            library.use_openmp(*_openmp())
            return library
    return reasons[0]


def _compiled(command: list[str]) -> ctypes.CDLL:
    """The library of the cache, compiled where it is not there yet; its name holds its own hash, which is checked."""
    sources = [file.read_bytes() for file in sorted(compiler.SOURCE.iterdir())]
    inputs = "\n".join([*command, compiler.version(command), compiler.processor()]).encode("utf-8", "surrogateescape")
    key = hashlib.sha256(b"\0".join([inputs, *sources])).hexdigest()[:20]
    content, why = None, ""
    for folder in _folders():
        try:
            path, load = _kept(folder, key), _load
            if path is None:
                content, load = content or compiler.compiled(command), _tried
                path = folder / f"{key}-{_digest(content)}{compiler.ENDING}"
                atomic.write_atomically(path, content)
        except OSError as error:
            why = f"{folder} cannot be written to: {error.strerror}"
            continue
        try:
            return load(path)
        except KernelsUnavailable as error:
            why = str(error)
            with contextlib.suppress(OSError):  # perhaps the compiler's mistake, who may do better another time
                path.unlink()
    raise KernelsUnavailable(why)


def _kept(folder: Path, key: str) -> Path | None:
    """A whole library in a folder."""
    paths = sorted(folder.glob(f"{key}-*{compiler.ENDING}"))
    return next((path for path in paths if path.stem == f"{key}-{_digest(path.read_bytes())}"), None)


def _folders() -> Iterator[Path]:
    """Where a library may lie: the cache, or, where that is full, not to be written to or not to be executed from, a
    folder that this process removes again."""
    with contextlib.suppress(MachineError):
        yield private_folder("kernels")
    try:
        folder = Path(tempfile.mkdtemp(prefix="ditkit-kernels-"))
    except OSError:
        return
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    yield folder


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


def _tried(path: Path) -> ctypes.CDLL:
    """A library that another process has loaded before, as a damaged one would end this process."""
    command = [sys.executable, "-I", "-S", "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1]).size_of(0)", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelsUnavailable(f"their library cannot be tried: {error}") from None
    if done.returncode < 0:
        raise KernelsUnavailable(f"their library is damaged: loading it ends with {done.returncode}")
    return _load(path)


def _load(path: Path) -> ctypes.CDLL:
    """A library, once it is certain that it lays out structs as Python does. Raises KernelsUnavailable."""
    try:
        library = ctypes.CDLL(str(path))
        library.size_of.restype = library.attention_scratch.restype = ctypes.c_int64
        library.use_openmp.argtypes = [ctypes.c_void_p] * 3
        wrong = [struct for number, struct in enumerate(STRUCTS) if library.size_of(number) != ctypes.sizeof(struct)]
    except (OSError, AttributeError) as error:
        raise KernelsUnavailable(f"their library cannot be loaded: {error}") from None
    if wrong:
        raise KernelsUnavailable(f"their library lays out {wrong[0].__name__} in another way")
    return library


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
