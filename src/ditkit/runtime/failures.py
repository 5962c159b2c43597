"""What Python, torch or a library raises, as an error that a user can act on."""

from __future__ import annotations

import errno
import re

from ..errors import DitkitError, MachineError, UsageError
from ..io.atomic import path_is_too_long

# How torch says it of any device, on Windows, on Linux and in C++; and NVIDIA's libraries that find no room to begin.
_NO_MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|bad[ _]alloc"
    r"|CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)"
)
_PAGING_FILE_TOO_SMALL = 1455  # of Windows


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's own, that of torch on any device, or of a library below it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM or getattr(error, "winerror", None) == _PAGING_FILE_TOO_SMALL
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def explained(error: BaseException) -> DitkitError | None:
    """An exception of the machine or of a broken installation in ditkit's words; None for what may be a bug."""
    if isinstance(error, DitkitError):
        return error
    if is_out_of_memory(error):
        return MachineError("out of memory", "lower --batch-size, or choose a smaller model")
    if isinstance(error, (NotImplementedError, TypeError)) and re.search(r"\bMPS\b", str(error)):
        hint = "use --device cpu, or set PYTORCH_ENABLE_MPS_FALLBACK=1, by which the CPU does that part"
        return MachineError(f"torch cannot do this on mps: {str(error).partition('. ')[0]}", hint)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror[:1].lower()}{error.strerror[1:]}"
        if error.errno == errno.ENAMETOOLONG:
            return UsageError(message, "use a shorter word")
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return MachineError(message, "allow this program more open files (`ulimit -n 8192`), or close others")
        hint = path_is_too_long(error) or "check the path, its permissions and the free space"
        return MachineError(message, hint)
    if "torchvision" in str(error) and isinstance(error, (RuntimeError, ImportError)):
        hint = "`pip uninstall torchvision`, which ditkit does not need, or install the one made for this torch"
        return MachineError("the installed torchvision does not fit the installed torch", hint)
    if isinstance(error, ImportError):
        return MachineError(
            f"cannot import {error.name or 'what this needs'}: {error}", "`ditkit doctor` says what is broken"
        )
    return None
