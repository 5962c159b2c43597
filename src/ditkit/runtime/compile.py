"""Whether training compiles the network: only where a compiler works, and where the run is long enough to pay back."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..errors import MachineError
from ..io.paths import private_folder
from ..models.size import flops

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


def why_not(device: torch.device) -> str | None:
    """Why torch.compile does not work on a device, in one line; None when a tiny function was compiled."""
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


def decide(word: str, before: bool | None, config: RunConfig, device: torch.device) -> tuple[bool, str | None]:
    """Whether to compile, and a line on why not; `before` is how a run that continues was trained so far.

    Raises MachineError when `word` is "on" and nothing can be compiled.
    """
    if before is None:
        before = word == "auto" and pays_back(config, device, torch.get_num_threads())
    if word == "off" or (word == "auto" and not before):
        return False, None
    reason = why_not(device)
    if reason is None:
        return True, None
    if word == "on":
        raise MachineError(
            f"the network cannot be compiled: {reason}",
            "install a C++ compiler (g++ or clang), or leave out --compile" if device.type == "cpu" else None,
        )
    return False, f"the network is not compiled, so steps take a little longer: {reason}"


def compiled(network: nn.Module) -> Callable[..., Tensor]:
    """The network's forward, compiled when it is first called; the weights stay those of the network."""
    return torch.compile(network.forward, dynamic=False)


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
