"""What Python, torch or a library raises, as an error that a user can act on."""

from __future__ import annotations

import errno

from ..errors import DitkitError, MachineError, UsageError

_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's own, that of torch on any device, or of a library below it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing it
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


def explained(error: BaseException) -> DitkitError | None:
    """An exception of the machine or of a broken installation in ditkit's words; None for what may be a bug."""
    if isinstance(error, DitkitError):
        return error
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror[:1].lower()}{error.strerror[1:]}"
        if error.errno == errno.ENAMETOOLONG:
            return UsageError(message, "use a shorter word")
        return MachineError(message, "check the path, its permissions and the free space")
    if "torchvision" in str(error) and isinstance(error, (RuntimeError, ImportError)):
        hint = "`pip uninstall torchvision`, which ditkit does not need, or install the one made for this torch"
        return MachineError("the installed torchvision does not fit the installed torch", hint)
    if isinstance(error, ImportError):
        return MachineError(
            f"cannot import {error.name or 'what this needs'}: {error}", "`ditkit doctor` says what is broken"
        )
    if is_out_of_memory(error):
        return MachineError("out of memory", "lower --batch-size, or choose a smaller model")
    return None
