"""What makes the kernels' library: the C compilers of this machine, or a library that comes with the package.

Nothing of torch is needed: a release builds the libraries for its packages with this module alone.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from ..runtime.memory import system_text

SOURCE = Path(__file__).parent / "source"
ENDING = ".dylib" if sys.platform == "darwin" else ".so"
# Sums may be added up in another order only where a loop says so (omp simd): a NaN stays one, and so does 0 - 0.
_FLAGS = ("-O3", "-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_SHARED = ("-fvisibility=hidden", "-shared", "-fPIC")
_SECONDS, _SECONDS_TO_ANSWER = 120, 20  # after which a compiler counts as broken

_STAND_INS = "/usr/bin/"  # where macOS has a cc, gcc and clang also without a compiler

_ARM = platform.machine().lower() in ("arm64", "aarch64")
_PREBUILT = Path(__file__).parent / "prebuilt"
_AVX2 = "avx avx2 bmi1 bmi2 f16c fma abm movbe"
# What a processor must have (flags of /proc/cpuinfo) for a library that comes with the package; the fastest first.
_ARCHITECTURES = {
    "x86-64-v4": f"{_AVX2} avx512f avx512bw avx512cd avx512dq avx512vl",
    "x86-64-v3": _AVX2,
    "armv8-a": "",
}


class KernelsUnavailable(Exception):
    """The kernels cannot be used here; says why, in a few words."""


def compilers() -> list[list[str]]:
    """Commands that compile for this processor, without their files: that of the variable CC first, then cc, gcc and
    clang, those that exist."""
    native = "-mcpu=native" if _ARM else "-march=native"
    flags = [*_FLAGS, *os.environ.get("DITKIT_KERNELS_ARCH", native).split(), *_SHARED]
    commands = {}
    for words in (_words_of_cc(), ["cc"], ["gcc"], ["clang"]):
        path = shutil.which(words[0]) if words else None
        if path and not (path.startswith(_STAND_INS) and apples_tools_are_missing()):
            commands.setdefault((os.path.realpath(path), *words[1:]), [path, *words[1:], *flags])
    return list(commands.values())


@lru_cache(maxsize=1)
def apples_tools_are_missing() -> bool:
    """Whether this is a Mac whose compilers are stand-ins: calling one would open a window that offers to install them.

    Asking where they are opens none.
    """
    if sys.platform != "darwin":
        return False
    try:
        return _run(["xcode-select", "-p"], _SECONDS_TO_ANSWER).returncode != 0
    except KernelsUnavailable:
        return True


def _words_of_cc() -> list[str]:
    """CC is a program, or a command with options."""
    text = os.environ.get("CC", "").strip()
    try:
        return [text] if shutil.which(text) else shlex.split(text)
    except ValueError:  # a quotation mark that is never closed
        return []


def version(command: list[str]) -> str:
    """What a compiler says of itself. Raises KernelsUnavailable if it does not work."""
    return _run([command[0], "--version"], _SECONDS_TO_ANSWER).stdout.decode("utf-8", "replace")


def compiled(command: list[str]) -> bytes:
    """The library that a compiler makes of the sources. Raises KernelsUnavailable if it makes none."""
    try:
        with tempfile.TemporaryDirectory(prefix="ditkit-kernels-") as folder:
            out = Path(folder) / f"kernels{ENDING}"
            done = _run([*command, str(SOURCE / "kernels.c"), "-o", str(out), "-lm"], _SECONDS)
            content = out.read_bytes() if out.is_file() and not done.returncode else b""
    except OSError as error:  # of the temporary folder
        raise KernelsUnavailable(f"they cannot be compiled: {error}") from None
    if not content:
        lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line]
        why = [*errors, *lines, f"it ended with {done.returncode}" if done.returncode else "it made nothing"][0]
        raise KernelsUnavailable(f"the compiler {command[0]} does not work: {why[:200]}")
    return content


def _run(command: list[str], seconds: int) -> subprocess.CompletedProcess[bytes]:
    """A compiler's answer, in English whatever the user's language is: part of it names the library."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        why = f"no answer within {seconds} seconds"
    except OSError as error:
        why = error.strerror or str(error)
    raise KernelsUnavailable(f"the compiler {command[0]} does not work: {why}")


@lru_cache(maxsize=1)
def processor() -> str:
    """What `native` means: the processor's name and what it can compute."""
    info = system_text(Path("/proc/cpuinfo"))
    lines = re.findall(r"^(?:model name|flags|Features|CPU part)\s*:.*$", info, re.MULTILINE)
    return "\n".join([platform.machine(), platform.processor(), *dict.fromkeys(lines)])


def prebuilt_libraries() -> list[Path]:
    """Libraries that come with the package and that this processor can run, the fastest first."""
    flags = set(processor().split())
    able = [
        name for name, needs in _ARCHITECTURES.items() if set(needs.split()) <= flags and name.startswith("arm") == _ARM
    ]
    return [path for path in map(_prebuilt, able) if path.is_file()]


def prebuild(architecture: str) -> Path:
    """Compile a library for the package, of an architecture that `prebuilt_libraries` looks for."""
    path = _prebuilt(architecture)
    os.environ["DITKIT_KERNELS_ARCH"] = f"-march={architecture}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(compiled(compilers()[0]))
    return path


def _prebuilt(architecture: str) -> Path:
    return _PREBUILT / f"{sys.platform}-{architecture}{ENDING}"
