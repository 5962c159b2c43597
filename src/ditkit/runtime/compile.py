"""Whether training compiles the network: only where a compiler works, and where the run is long enough to pay back."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..errors import DitkitError, MachineError
from ..io.paths import private_folder
from ..io.progress import notify
from ..io.text import format_duration
from ..kernels.compiler import apples_tools_are_missing
from ..models.size import flops
from .compile_times import last_time, remember
from .distributed import ProcessGroup
from .failures import is_out_of_memory
from .watchdog import is_lost

_SECONDS = 60.0  # that compiling takes
_SAVED = {"cpu": 0.1, "cuda": 0.25}  # part of a step's time; not tried on other devices
_PER_SECOND = {"cpu": 60e9, "cuda": 50e12}  # floating-point operations; of one thread of a CPU


def pays_back(config: RunConfig, device: torch.device, threads: int) -> bool:
    """Whether a whole run saves at least twice what compiling costs.

    Estimated from the settings, not timed: two runs of the same settings must not differ because one was slower.
    """
    if device.type not in _SAVED:
        return False
    channels, height, width = config.shape
    work = 6 * flops(config.model, channels=channels, size=(height, width)) * config.train.batch_size
    per_second = _PER_SECOND[device.type] * (threads if device.type == "cpu" else 1)
    return _SAVED[device.type] * config.train.steps * work / per_second >= 2 * _SECONDS


def pays_back_within(left: float, seconds: float, device: torch.device) -> bool:
    """Whether the seconds that are `left` save at least twice the `seconds` that compiling takes out of them."""
    return _SAVED[device.type] * (left - seconds) >= 2 * seconds


def why_not(device: torch.device) -> str | None:
    """Why torch.compile does not work on a device, in one line; None when a tiny function was compiled."""
    if device.type == "cpu" and apples_tools_are_missing():
        return "there is no C++ compiler (`xcode-select --install` brings one)"
    x = torch.arange(4.0, device=device)
    try:
        _prepare(device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own imports are full of them
            right = torch.allclose(torch.compile(_tiny, dynamic=False)(x), _tiny(x))
    except Exception as error:  # a compiler that is missing or broken can raise anything
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[0][:200] if lines else type(error).__name__
    finally:
        torch.compiler.reset()
    return None if right else "it computes something else"


def open_compiled(
    word: str,
    before: bool | None,
    config: RunConfig,
    network: nn.Module,
    device: torch.device,
    group: ProcessGroup,
    until: float = math.inf,
) -> tuple[Callable[..., Tensor] | None, str | None]:
    """The network's forward to be compiled, or None, and a line on why not: the same in all processes.

    `before` is how a run that continues was trained so far: it stays so, whatever is left of it, because compiled
    steps differ in the last bits. `until` is the monotonic time at which a new run has to end. Raises MachineError
    when `word` is "on" and nothing can be compiled.
    """
    seconds = last_time(config, device)
    wanted, text = group.broadcast(_is_wanted(word, before, config, device, until - time.monotonic(), seconds))
    if not wanted:
        return None, text
    again = ", as before in this run" if before else ""
    took = f"it took {format_duration(seconds)} last time on this machine" if seconds else "it may take a minute"
    notify(f"compiling the network{again}: {took} (--compile off skips it)")
    began = time.monotonic()
    reason = next((reason for reason in group.all_gather(why_not(device)) if reason), None)
    if reason is None:
        probing = time.monotonic() - began
        return _timed(compiled(network), lambda seconds: remember(config, device, probing + seconds)), None
    if word == "on":
        raise MachineError(
            f"the network cannot be compiled: {reason}",
            "install a C++ compiler (g++ or clang), or leave out --compile" if device.type == "cpu" else None,
        )
    return None, f"the network is not compiled, so steps take a little longer: {reason}"


def _is_wanted(
    word: str, before: bool | None, config: RunConfig, device: torch.device, left: float, seconds: float | None
) -> tuple[bool, str | None]:
    """Whether to compile, where that takes `seconds` (None: unknown) of those that are `left`; a line on why not."""
    if word != "auto" or before is not None:
        return word == "on" or (word == "auto" and bool(before)), None
    if not pays_back(config, device, torch.get_num_threads()):
        return False, None
    if not pays_back_within(left, seconds or _SECONDS, device):
        text = "the network is not compiled, and will not be in this run: the time that the command has is too short to"
        return False, f"{text} pay it back (--compile on does)"
    return True, None


def compiled(network: nn.Module) -> Callable[..., Tensor]:
    """The network's forward, compiled when it is first called; the weights stay those of the network."""
    # Each number of threads is compiled for itself; past the limit torch would stop to use what is compiled.
    torch._dynamo.config.recompile_limit = 1024
    return torch.compile(network.forward, dynamic=False)


def _timed(forward: Callable[..., Tensor], note: Callable[[float], None]) -> Callable[..., Tensor]:
    """A function whose first call, in which it is compiled, is timed."""
    is_first = True

    def timed(*arguments: Tensor) -> Tensor:
        nonlocal is_first
        if not is_first:
            return forward(*arguments)
        began, is_first = time.monotonic(), False
        result = forward(*arguments)
        note(time.monotonic() - began)
        return result

    return timed


def failed(error: Exception) -> bool:
    """Whether an error of the first step may be the compiler's; then says that the network is not compiled.

    A compiler that made a tiny function may still fail at a network, in forward or in backward, with any exception.
    """
    if is_out_of_memory(error) or is_lost(error) or isinstance(error, DitkitError):
        return False
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
    notify(f"warning: the network is not compiled, so steps take a little longer: {reason}")
    return True


def _prepare(device: torch.device) -> None:
    """Quiet loggers, and caches of our own: torch's lie in the shared temporary folder, and hold pickles.

    Whoever made them there first could have torch run any code. Raises MachineError if the folder is not ours.
    """
    for variable, name in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        if variable not in os.environ:
            os.environ[variable] = str(private_folder("compiled") / name)
    if device.type == "cpu":  # a pool of compilers would outlive a signal that is meant for the training alone
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    for name in ("torch._inductor", "torch._dynamo", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _tiny(x: Tensor) -> Tensor:
    return torch.sin(x) * 2 + 1
