"""Gradients and images of this device against those that are right: of float64, of eager torch, of the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .. import recipes
from ..checkpoint.loading import load_weights
from ..errors import MachineError
from ..kernels import choice
from ..kernels.choice import Compute, computes_bfloat16
from ..kernels.library import KernelsUnavailable, open_library
from ..models.dit import DiT
from ..objectives.contract import Network, open_objective
from ..runs.lookup import bundled_weights
from ..runs.model_info import read_model_info
from ..runtime.compile import compiled, why_not
from ..runtime.device import autocast, find_dtype
from ..runtime.distributed import ProcessGroup
from ..sampling.generate import sample
from ..training.step import SpeedOptions, open_step_context
from .findings import Differs, NotTried
from .subject import Subject, batch_of_noise, network_with_open_gates

_IMAGES = 8  # of a gradient
# Norm of the gradients' difference over their norm that is allowed: float32 is TF32 in training on CUDA.
_ALLOWED = {("cpu", torch.float32): 1e-5, ("cuda", torch.float32): 2e-3, ("mps", torch.float32): 1e-4}
_ALLOWED_BFLOAT16, _ALLOWED_COMPILED = 2e-2, 2e-2
_LEVELS, _SHARE = 8, 0.01  # at most this share of an image's values may differ by more levels of 255
_DRAWN, _SAMPLING_STEPS = 10, 10
_WRONG = "report it; --device cpu computes without this device"


def gradients_hold(subject: Subject, dtype: torch.dtype) -> str:
    """Gradients of eager torch on the device, against those of float64 on the CPU."""
    network, inputs = network_with_open_gates(subject.config), batch_of_noise(subject.config, _IMAGES)
    right = _gradients(subject, copy.deepcopy(network).double(), tuple(map(_widened, inputs)))
    got = _on_device(subject, network, dtype)(None)
    allowed = _ALLOWED.get((subject.device.type, dtype), 1e-4) if dtype == torch.float32 else _ALLOWED_BFLOAT16
    error = _difference(right, got)
    text = f"gradients {error:.1e} from float64's"
    if not error <= allowed:
        raise Differs(f"{text}, where {allowed:.0e} is allowed", _WRONG)
    return text


def check_computes(device: torch.device, dtype: torch.dtype) -> None:
    """Raise NotTried unless a device computes in a dtype itself."""
    if dtype != torch.bfloat16:
        return
    if device.type == "cpu" and not computes_bfloat16():
        raise NotTried("this processor does not compute in it")
    if device.type == "cuda" and find_dtype("auto", device) != torch.bfloat16:
        raise NotTried("this GPU does not compute in it")
    if device.type == "mps":
        raise NotTried("ditkit does not use it on mps")


def kernels_hold(subject: Subject) -> str:
    """The kernels for CPUs against eager torch: their own check, made again."""
    if subject.device.type != "cpu":
        raise NotTried(f"they run on CPUs, not on {subject.device.type}")
    if choice.choice_word("auto") == "off":
        raise NotTried("DITKIT_KERNELS is off")
    try:
        open_library()
    except KernelsUnavailable as error:
        hint = "install a C compiler (gcc or clang): steps take about half the time with them"
        raise NotTried(str(error), hint) from None
    dtype = torch.bfloat16 if computes_bfloat16() else torch.float32
    verdict = choice.check(recipes.load("mnist"), dtype)
    if verdict.error is None:
        raise Differs(verdict.why, "they are not used then; report it, with the version of the C compiler")
    return f"gradients {verdict.error:.1e} from torch's; {verdict.why}"


def compiling_holds(subject: Subject) -> str:
    """The compiled network against the eager one, in the dtype of training."""
    if subject.device.type != "cuda":
        raise NotTried("only on CUDA: on a CPU it takes a minute")
    if reason := why_not(subject.device):
        raise NotTried(reason, "training goes on without, a little slower")
    gradients = _on_device(subject, network_with_open_gates(subject.config), subject.compute.dtype)
    error = _difference(gradients(None), gradients(compiled))
    if not error <= _ALLOWED_COMPILED:
        raise Differs(f"gradients {error:.1e} from eager's, {_ALLOWED_COMPILED:.0e} is allowed", "train --compile off")
    return f"gradients {error:.1e} from eager's"


def samples_hold(subject: Subject) -> str:
    """Images that this device draws as it would for the user, against those of eager float32 on the CPU."""
    path = bundled_weights("mnist")
    if path is None:
        raise MachineError("the model of digits inside the package is missing", "install ditkit again")
    info = read_model_info(path)
    here = load_weights(path, info, device=subject.device)
    if subject.device.type == "cpu" and here.compute.record == choice.EAGER.record:
        raise NotTried("the device is the CPU, in float32, by torch alone")
    plain = load_weights(path, info, device="cpu", dtype="float32", kernels="off")
    drawn, right = (
        np.stack([each.image for each in sample(trained, _DRAWN, steps=_SAMPLING_STEPS)]).astype(np.int64)
        for trained in (here, plain)
    )
    off = np.abs(drawn - right)
    share, how = float((off > _LEVELS).mean()), f"{here.compute.record['dtype']}"
    text = f"{share:.2%} of values off by over {_LEVELS} of 255 in {how}"
    if not share <= _SHARE:
        raise Differs(f"{text}; {_SHARE:.0%} is allowed", f"{_WRONG}, --dtype float32 --kernels off plainly")
    return text


def _on_device(subject: Subject, network: DiT, dtype: torch.dtype) -> Callable[..., list[Tensor]]:
    """A function that gives the gradients as training on the device computes them, by the network or made of it."""
    config, device = subject.config, subject.device
    network = copy.deepcopy(network).to(device)
    compute = Compute(dtype=dtype)
    context, _ = open_step_context(
        config, network, open_objective(config.diffusion), device, compute, ProcessGroup(), SpeedOptions(compile="off")
    )
    inputs = tuple(tensor.to(device) for tensor in batch_of_noise(config, _IMAGES))

    def gradients(make: Callable[[DiT], Network] | None) -> list[Tensor]:
        with autocast(device, context.compute.autocast):
            loss_B = context.objective.loss_at(make(network) if make else network, *inputs)
        return _backward(network, loss_B)

    return gradients


def _gradients(subject: Subject, network: DiT, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    objective = open_objective(subject.config.diffusion)
    return _backward(network, objective.loss_at(network, *inputs))


def _backward(network: DiT, loss_B: Tensor) -> list[Tensor]:
    """Gradients of the mean loss, in float64 on the CPU."""
    network.zero_grad(set_to_none=True)
    loss_B.mean().backward()
    return [
        parameter.grad.detach().to("cpu").double() for parameter in network.parameters() if parameter.grad is not None
    ]


def _widened(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _difference(right: list[Tensor], got: list[Tensor]) -> float:
    """The norm of the difference over the norm, of all tensors together; infinite for what is not finite."""
    pairs = list(zip(right, got, strict=True))
    off = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    whole = sum(float(a.square().sum()) for a, _ in pairs) ** 0.5
    return off / whole if np.isfinite(off) and whole else float("inf")
