"""Whether the kernels run a network's blocks, and in which dtype: decided by a check of the results and of the time.

What was found is kept in the cache, for this processor, torch and shape, so that equal commands make equal runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import RunConfig, to_dict
from ..errors import MachineError, UsageError, unknown
from ..io import atomic
from ..io.paths import private_folder
from ..io.progress import notify
from ..io.reading import read_json
from ..models.dit import DiT
from ..runtime.device import allow_tf32, find_dtype
from ..runtime.memory import system_text
from .blocks import FastBlocks, why_not
from .library import KernelsUnavailable, library_name, open_library

WORDS = ("auto", "on", "off")  # of --kernels
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-3}  # of gradients: norm of the difference over their norm
_AUTOCAST = 1.25  # in bfloat16 so many times what torch's autocast makes of the gradients is allowed, too
_GAIN = 1.1  # eager time over the kernels', from which on they are used
_PRODUCT_GAIN = 1.5  # float32 time over bfloat16 time of a product, from which on bfloat16 is tried
_TOKENS, _MOST_IMAGES = 512, 32  # of a check
_ROUNDS, _SECONDS = 6, 0.7  # of its timing: no more rounds begin after so many seconds
_MOST_PRODUCTS = 1 << 28  # multiply-adds of a product that is timed


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How the matrix products of a network are computed."""

    dtype: torch.dtype
    kernels: bool = False
    why: str = ""  # a few words for people

    @property
    def autocast(self) -> torch.dtype:
        """What torch's autocast is to reduce products to: nothing where the kernels do it themselves."""
        return torch.float32 if self.kernels else self.dtype

    @property
    def record(self) -> dict[str, str]:
        """What files say of it, in the words of the options --dtype and --kernels."""
        return {"dtype": name(self.dtype), "kernels": "on" if self.kernels else "off"}

    def equip(self, *networks: Any) -> Compute:
        """Let the kernels run the blocks of DiTs, or eager torch again; returns itself."""
        for network in networks:
            network.fast_blocks = FastBlocks(network.config, self.dtype) if self.kernels else None
        return self


def name(dtype: torch.dtype) -> str:
    """float32 or bfloat16."""
    return str(dtype).removeprefix("torch.")


EAGER = Compute(dtype=torch.float32)


def choose(config: RunConfig, device: torch.device, dtype: str = "auto", kernels: str = "auto") -> Compute:
    """How to compute on a device: the one place where precision is decided, TF32 on CUDA (`allow_tf32`) included.

    Args:
        dtype: auto, float32 or bfloat16. On a CPU auto is bfloat16 where the processor computes it, and faster.
        kernels: auto, on or off. auto is what the environment variable DITKIT_KERNELS says, if it is there.

    Raises UsageError for kernels "on" where they do not exist, MachineError where they cannot be used.
    """
    allow_tf32(device)
    eager = Compute(dtype=find_dtype(dtype, device))
    word = choice_word(kernels)
    if word == "off":
        return eager
    found = find(config, device, dtype, whatever_they_gain=word == "on")
    if found.kernels or kernels != "on":
        return found if found.kernels else dataclasses.replace(eager, why=found.why)
    if device.type != "cpu" or why_not(config.model):
        raise UsageError(f"--kernels on: {found.why}", "leave it out")
    raise MachineError(f"the kernels cannot be used: {found.why}", "leave out --kernels on")


def find(config: RunConfig, device: torch.device, dtype: str, *, whatever_they_gain: bool) -> Compute:
    """The kernels in the best dtype that passes its check; without kernels, why there are none."""
    why = f"they run on CPUs, not on {device.type}" if device.type != "cpu" else why_not(config.model)
    for candidate in [] if why else _candidates(config, dtype):
        verdict = _kept_or_checked(config, candidate)
        if verdict.error is not None and (whatever_they_gain or verdict.gain >= _GAIN):
            return Compute(dtype=candidate, kernels=True, why=verdict.why)
        why = verdict.why
    return Compute(dtype=torch.float32, why=why or "")


def choose_to_draw(config: RunConfig, device: str | torch.device, dtype: str, kernels: str) -> Compute:
    """As `choose`, but auto is float32 on a GPU; says so where bfloat16 is slow."""
    device = torch.device(device)
    compute = choose(config, device, "float32" if dtype == "auto" and device.type != "cpu" else dtype, kernels)
    if dtype == "bfloat16" and device.type == "cpu" and not computes_bfloat16():
        _say_slow()
    return compute


@lru_cache(maxsize=1)
def _say_slow() -> None:
    notify("warning: bfloat16 is slow here: this processor does not compute in it; --dtype float32 is faster")


def choice_word(kernels: str) -> str:
    """auto, on or off; what auto is to be, the environment may say. Raises UsageError for another word."""
    word = os.environ.get("DITKIT_KERNELS", "auto") if kernels == "auto" else kernels
    if word not in WORDS:
        raise unknown("word for --kernels, or DITKIT_KERNELS:", word, WORDS)
    return word


def _candidates(config: RunConfig, word: str) -> list[torch.dtype]:
    """The dtypes of products that are to be checked, the best first."""
    if word != "auto":
        return [find_dtype(word, torch.device("cpu"))]
    return [*([torch.bfloat16] if computes_bfloat16() and _bfloat16_pays(config) else []), torch.float32]


def computes_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; where it does not, a large product takes 500 times as long."""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", system_text(Path("/proc/cpuinfo")), re.MULTILINE)
    return bool(flags and {"avx512_bf16", "amx_bf16", "bf16"} & set(flags[1].split()))


def _bfloat16_pays(config: RunConfig) -> bool:
    """Whether a product of the network's own shape is much faster in bfloat16; takes a few hundredths of a second."""
    width, seconds = config.model.width, []
    tokens = max(64, min(_TOKENS, _MOST_PRODUCTS // (3 * width**2)))
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(tokens, width, dtype=dtype), torch.ones(width, 3 * width, dtype=dtype)
        seconds.append(_fastest(lambda left=left, right=right: torch.mm(left, right), 4))
    return seconds[0] >= _PRODUCT_GAIN * seconds[1]


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """What a check has found: the error of the gradients, None where they are wrong or there are none; and the gain."""

    error: float | None
    gain: float
    why: str


def _kept_or_checked(config: RunConfig, dtype: torch.dtype) -> _Verdict:
    try:
        open_library()
    except KernelsUnavailable as error:
        return _Verdict(error=None, gain=0, why=str(error))
    if dtype == torch.bfloat16 and not computes_bfloat16():
        return _Verdict(error=None, gain=0, why="this processor does not multiply in bfloat16")
    path = _place(config, dtype)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = read_json(path) if path else {}
        return _Verdict(error=kept["error"] and float(kept["error"]), gain=float(kept["gain"]), why=str(kept["why"]))
    verdict = check(config, dtype)
    if path:
        with contextlib.suppress(OSError):
            atomic.write_atomically(path, json.dumps(dataclasses.asdict(verdict)))
    return verdict


def _place(config: RunConfig, dtype: torch.dtype) -> Path | None:
    """The file that keeps what a check has found; None where the cache cannot be written to."""
    model = {key: value for key, value in to_dict(config)["model"].items() if key != "depth"}
    threads = torch.get_num_threads()
    what = json.dumps([library_name(), torch.__version__, str(dtype), threads, config.shape, model], sort_keys=True)
    with contextlib.suppress(MachineError):
        return private_folder("kernels") / f"check-{hashlib.sha256(what.encode()).hexdigest()[:20]}.json"
    return None


def check(config: RunConfig, dtype: torch.dtype) -> _Verdict:
    """Gradients of a few images by eager torch and by the kernels, of two blocks with weights that are no special case.

    The norm of the difference, over the norm, of all parameters' gradients together must be below 1e-5 in float32. For
    bfloat16 that is checked, too, as a mistake would be lost in its rounding; there it must be below 2e-3 or, as blocks
    whose gates are open cannot reach that, close to that of torch's autocast.
    """
    network, inputs = _small_network(config)
    kernels = {each: FastBlocks(network.config, each) for each in dict.fromkeys((torch.float32, dtype))}

    def gradients(blocks: FastBlocks | None) -> list[Tensor]:
        network.fast_blocks = blocks
        network.zero_grad(set_to_none=True)
        network(*inputs).square().mean().backward()
        return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]

    error, fast = 0.0, kernels[dtype]
    with torch.enable_grad():
        wanted = gradients(None)
        for each, blocks in kernels.items():
            error, allowed = _difference(wanted, gradients(blocks)), _TOLERANCE[each]
            if each == torch.bfloat16 and error >= allowed:
                with torch.autocast("cpu", each):
                    allowed = _AUTOCAST * _difference(wanted, gradients(None))
            if not error < allowed:
                return _Verdict(error=None, gain=0, why=f"their gradients differ from torch's by {error:.1e}")
        both = (lambda: gradients(None), lambda: gradients(fast))
        gain = _gain(*both)
        if gain < _GAIN:  # others may have used the machine just now, and what is found is kept for good
            gain = max(gain, _gain(*both))
    return _Verdict(error=error, gain=gain, why=f"{gain:.1f} times as fast as eager in {name(dtype)}, measured here")


def _small_network(config: RunConfig) -> tuple[DiT, tuple[Tensor, Tensor, Tensor]]:
    """The config's network with at most two blocks and random weights, and images, timesteps and labels for it."""
    channels, height, width = config.shape
    images = max(2, min(_MOST_IMAGES, _TOKENS * config.model.patch**2 // (height * width)))
    source = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        model = dataclasses.replace(config.model, depth=min(2, config.model.depth))
        network = DiT(model, channels=channels, size=(height, width), classes=1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # Gates of a fresh network are closed: of a mistake behind them nothing would be seen.
            noise = 0.5 if name.endswith("modulation.bias") else 0.02
            parameter.add_(torch.randn(parameter.shape, generator=source), alpha=noise)
    x_BCHW = torch.randn((images, channels, height, width), generator=source)
    timestep_B = torch.rand(images, generator=source) * config.diffusion.timesteps
    return network, (x_BCHW, timestep_B, torch.zeros(images, dtype=torch.int64))


def _difference(wanted: list[Tensor], got: list[Tensor]) -> float:
    return _norm([a - b for a, b in zip(wanted, got, strict=True)]) / _norm(wanted)


def _norm(tensors: list[Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5


def _gain(eager: Callable[[], object], fast: Callable[[], object]) -> float:
    """How many times as fast, each at its best of several by turns: on a busy machine, and once for a large network."""
    began, rounds = time.perf_counter(), []
    while len(rounds) < _ROUNDS and (not rounds or time.perf_counter() - began < _SECONDS):
        rounds.append((_fastest(eager, 1), _fastest(fast, 1)))
    return min(seconds for seconds, _ in rounds) / min(seconds for _, seconds in rounds)


def _fastest(work: Callable[[], object], rounds: int) -> float:
    """Seconds that some work takes at best."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
