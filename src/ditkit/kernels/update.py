"""The update of the weights by a step's gradients: AdamW and the averages, eager or by a kernel in one pass.

P parameters, C chunks of them.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from .. import optim
from ..ema import Ema, PowerEmas, decay_at, decay_of_power
from ..models.dit import DiT
from ..runtime.transfer import fetch
from .arguments import MOST_AVERAGES, Update
from .library import open_library

_CHUNK = 8192  # numbers; a weight's are still in the nearest cache when its averages move
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the host has to know of a step."""

    loss_B: Tensor  # on the CPU
    loss: float  # their mean
    norm: float  # of all gradients together, before they are clipped
    flags: list[bool]  # whether any process raised them


@dataclass(frozen=True)
class WeightUpdate:
    """The norm of a step's gradients, and the change of weights and averages by them.

    Where kernels run the network's blocks, a kernel does the update, in one pass over memory. The tensors stay those
    of the network, the optimiser and the averages: after any step the next one may be done in the other way.
    """

    network: DiT
    optimizer: torch.optim.Optimizer
    ema: Ema
    averages: PowerEmas
    clip: float | None  # the norm that larger gradients are scaled down to
    ahead: bool = False  # `measure` gives AdamW to the device before the host knows the loss: CUDA never stands still

    def norm(self) -> float:
        """The norm of all gradients together; where they are sharded, all processes must call it together."""
        return float(optim.norm(self.network)) if self.network.fast_blocks is None else self._one_pass.norm()

    def measure(self, rate: float, loss_B: Tensor, raised_F: Tensor, most: float) -> Measured:
        """Loss, norm and flags of a step, in one copy to the host; where weights are sharded, all call it together.

        `most` is the largest loss that is learnt from. With `ahead`, AdamW follows at once, at a learning rate; the
        device itself sees to it that weights stay as they are where the loss is larger, or the norm is not finite.
        """
        fast = self.network.fast_blocks is not None
        norm = torch.tensor(self.norm(), dtype=torch.float64) if fast else optim.norm(self.network)
        loss = loss_B.mean()
        arrive = fetch([loss_B, raised_F, loss, norm])
        if self.ahead:
            self._step_unless_bad(rate, loss, norm, most)
        loss_B, raised_F, loss, norm = arrive()
        flags = [bool(count) for count in raised_F.tolist()]
        return Measured(loss_B=loss_B, loss=float(loss), norm=float(norm), flags=flags)

    def __call__(self, rate: float, norm: float, step: int) -> None:
        """Do step number `step`, counted from 1, with a learning rate and gradients of a known norm."""
        optim.set_rate(self.optimizer, rate)
        if self.network.fast_blocks is not None:
            powers = [decay_of_power(step, length) for length in self.averages.networks]
            self._one_pass.step([decay_at(step, self.ema.decay), *powers], self.clip, norm)
            return
        if not self.ahead:
            optim.clip(self.network, self.clip, torch.tensor(norm))
            self.optimizer.step()
        self.ema.update(self.network, step)
        self.averages.update(self.network, step)

    def _step_unless_bad(self, rate: float, loss: Tensor, norm: Tensor, most: float) -> None:
        """AdamW whose gradients, clipping and whether it is done at all are known to the device alone.

        By what fused AdamW has for mixed precision: gradients are divided by `grad_scale`, and nothing changes where
        `found_inf` is 1. The comparison is that of `LossHealth.diagnose`, in float64 as there.
        """
        is_good = loss.isfinite() & norm.isfinite() & (loss.double() <= most)
        scale = None if self.clip is None else (norm + 1e-6).clamp(min=self.clip) / self.clip
        optim.set_rate(self.optimizer, rate)
        self.optimizer.grad_scale, self.optimizer.found_inf = scale, (~is_good).float()  # pyright: ignore
        try:
            self.optimizer.step()
        finally:
            del self.optimizer.grad_scale, self.optimizer.found_inf  # pyright: ignore

    @cached_property
    def _one_pass(self) -> OnePass:
        return OnePass(self.network, self.optimizer, [self.ema.network, *self.averages.networks.values()])


class OnePass:
    """AdamW on all weights of a network, and up to four averages of them, by a kernel.

    It leaves the optimiser's state as torch's fused AdamW would, to rounding. Results are the same with any number of
    threads. Raises ValueError for tensors that are not contiguous, of float32 and on the CPU, and for an optimiser
    that does more than the kernel.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, averages: Sequence[nn.Module]):
        if len(averages) > MOST_AVERAGES:
            raise ValueError(f"at most {MOST_AVERAGES} averages, not {len(averages)}")
        self._library, self._optimizer = open_library(), optimizer
        self._weights = list(network.parameters())
        self._averages = [list(average.parameters()) for average in averages]
        group_of = {weight: at for at, group in enumerate(optimizer.param_groups) for weight in group["params"]}
        if set(self._weights) != set(group_of):
            raise ValueError("the optimiser has other parameters than the network")
        self._group_P = np.array([group_of[weight] for weight in self._weights])
        sizes = [weight.numel() for weight in self._weights]
        cuts = [(tensor, begin) for tensor, size in enumerate(sizes) for begin in range(0, size, _CHUNK)]
        tensor_C, begin_C = np.array(cuts, dtype=np.int64).T.copy()
        end_C = np.minimum(begin_C + _CHUNK, np.array(sizes)[tensor_C])
        self._chunks = {"tensor": tensor_C, "begin": begin_C, "end": end_C}
        self._before_C = np.concatenate([[0], np.cumsum(end_C - begin_C)])  # numbers before each chunk, and in all
        self._checked = np.zeros(0, dtype=np.int64)

    def norm(self) -> float:
        """The norm of all gradients together; infinite where float32 cannot hold its square."""
        gradients, squares_C = self._gradients(), np.zeros(len(self._before_C) - 1)
        self._run("gradient_squares", {"gradient": _addresses([gradients]), "squares": squares_C})
        total = math.fsum(squares_C)  # the same in any order
        return math.inf if total > _LARGEST else math.sqrt(total)

    @torch.no_grad()
    def step(self, decays: Sequence[float], clip: float | None = None, norm: float = 0.0) -> None:
        """One step, at the rates of the optimiser's groups; then each average keeps its part of `decays`.

        Gradients, whose norm is `norm`, count as scaled down to the norm `clip`; they themselves stay as they are.
        """
        gradients, (beta1, beta2, eps) = self._gradients(), _settings(self._optimizer.param_groups)
        moments = self._moments(gradients)
        tables = _addresses([gradients, self._weights, *moments, *self._averages])
        if not np.array_equal(tables[1:], self._checked):  # at the first step, and after a checkpoint was loaded
            self._check(moments)
            self._checked = tables[1:]
        arrays = dict(zip(("gradient", "weight", "mean", "square", "step"), tables[:5], strict=True))
        self._run(
            "update",
            {**arrays, "rate": self._of_groups("lr"), "decay": self._of_groups("weight_decay")},
            tensors=len(self._weights),
            average=tuple(table.ctypes.data for table in tables[5:]),
            toward=tuple(1 - decay for decay, _ in zip(decays, self._averages, strict=True)),
            averages=len(self._averages),
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            factor=1.0 if clip is None else clip / max(norm + 1e-6, clip),
        )
        for tensor in itertools.chain(self._weights, *self._averages):  # their copies in bfloat16 are out of date
            increment_version(tensor)

    def _gradients(self) -> list[Tensor | None]:
        """Of each weight, contiguous; None: it does not learn from this step."""
        return [None if weight.grad is None else weight.grad.contiguous() for weight in self._weights]

    def _moments(self, gradients: list[Tensor | None]) -> list[list[Tensor | None]]:
        """The optimiser's state of each weight, slot by slot, made as torch makes it where a weight has none yet."""
        for weight, gradient in zip(self._weights, gradients, strict=True):
            if gradient is not None and not self._optimizer.state.get(weight):
                means, squares = (torch.zeros_like(weight, memory_format=torch.preserve_format) for _ in range(2))
                state = {"step": torch.zeros((), dtype=torch.float32), "exp_avg": means, "exp_avg_sq": squares}
                self._optimizer.state[weight] = state
        states = [self._optimizer.state.get(weight) for weight in self._weights]
        return [[state[slot] if state else None for state in states] for slot in ("exp_avg", "exp_avg_sq", "step")]

    def _of_groups(self, key: str) -> np.ndarray:
        """A setting of the optimiser's groups, for each weight."""
        return np.array([group[key] for group in self._optimizer.param_groups], dtype=np.float64)[self._group_P]

    def _check(self, moments: list[list[Tensor | None]]) -> None:
        """Raise ValueError unless the kernel may write to all these tensors."""
        means, squares, steps = moments
        for row in (self._weights, means, squares, steps, *self._averages):
            for tensor, weight in zip(row, self._weights, strict=True):
                shape = torch.Size() if row is steps else weight.shape
                if tensor is None or (_is_plain(tensor) and tensor.shape == shape):
                    continue
                what = f"{tensor.dtype} on {tensor.device}, of {tuple(tensor.shape)} with strides {tensor.stride()}"
                raise ValueError(
                    f"the kernel updates contiguous float32 tensors on a CPU, of {tuple(shape)}; not {what}"
                )

    def _run(self, function: str, arrays: dict[str, np.ndarray], **numbers: Any) -> None:
        """Call a function of the library; parts of the work are of about the same number of weights."""
        parts = torch.get_num_threads()
        ends = np.arange(parts + 1) * self._before_C[-1] // parts
        first = np.searchsorted(self._before_C[:-1], ends)
        pointers = {name: array.ctypes.data for name, array in ({"first": first} | self._chunks | arrays).items()}
        getattr(self._library, function)(ctypes.byref(Update(**pointers, **numbers)), parts)


def _addresses(rows: Sequence[Sequence[Tensor | None]]) -> np.ndarray:
    """Where the numbers of tensors are; 0 for None."""
    return np.array([[0 if tensor is None else tensor.data_ptr() for tensor in row] for row in rows], dtype=np.int64)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.is_contiguous() and tensor.dtype == torch.float32


def _settings(groups: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Both betas and eps, the same in all groups."""
    kinds = {(*group["betas"], group["eps"]) for group in groups}
    if len(kinds) != 1 or any(group["amsgrad"] or group["maximize"] for group in groups):
        raise ValueError("the kernel does AdamW with the same betas and eps for all weights, and nothing else")
    return kinds.pop()
