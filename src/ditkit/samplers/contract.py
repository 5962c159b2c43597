"""What a sampler is: a configured diffusers scheduler, its steps, and what its `step` wants.

A sampler's file defines `scheduler(process)`, which returns a scheduler or raises UsageError (see `needs`).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..objectives.contract import FLOW_MARGIN, Process
from ..registry import SAMPLERS

_FIRST_CHOICE = {"diffusion": "dpmpp", "flow": "flow-heun"}
_PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v", "flow_prediction": "velocity"}


Scheduler = Any  # a diffusers scheduler: config, timesteps, set_timesteps, step; diffusers is too slow to import here


def open_scheduler(name: str, process: Process, *, learned_variance: bool = False) -> Scheduler:
    """The scheduler of a sampler for a process. Raises UsageError for an unknown name and a process that does not fit.

    With `learned_variance` a scheduler that adds noise takes its variance from the network (`learned-sigma`).
    """
    scheduler = SAMPLERS.load(name)(process)
    if learned_variance and scheduler.config.get("variance_type"):
        return type(scheduler).from_config(scheduler.config, variance_type="learned_range")
    return scheduler


def needs(kind: str, process: Process, name: str) -> None:
    """Raise UsageError unless the process is of the kind that sampler `name` needs."""
    if process.kind != kind:
        model = "a flow" if process.kind == "flow" else "a diffusion"
        wanted = "a flow" if kind == "flow" else "a diffusion"
        raise UsageError(
            f"sampler {name!r} needs {wanted} process, this model is {model}",
            f"use --sampler {_FIRST_CHOICE[process.kind]}",
        )


def diffusion_settings(process: Process) -> dict[str, Any]:
    """What every diffusers scheduler of a diffusion is built with: our betas, the noisiest timestep first, x_0 in."""
    return {
        "num_train_timesteps": process.timesteps,
        "trained_betas": process.betas().tolist(),
        "timestep_spacing": "trailing",
        "prediction_type": "sample",
    }


def wanted_prediction(scheduler: Scheduler) -> str:
    """The prediction that `step` takes; the FlowMatch schedulers name none, and take velocity."""
    return _PREDICTIONS[scheduler.config.get("prediction_type", "flow_prediction")]


def set_steps(scheduler: Scheduler, process: Process, steps: int) -> Tensor:
    """Prepare `steps` steps; returns the timestep (N,) of every network call, float32 on the network's scale.

    On a flow noise levels fall evenly from 1 - FLOW_MARGIN to its Nth part, then to 0. flow-heun calls the network
    twice a step but for the last one: 2N - 1 times. Raises UsageError for more steps than a diffusion has.
    """
    if process.kind == "flow":
        if "sigma_min" in vars(scheduler):
            # diffusers would end with a step from 0.001 to 0, where x_0's errors are magnified a thousandfold.
            scheduler.sigma_max = 1 - FLOW_MARGIN
            scheduler.sigma_min = scheduler.sigma_max / steps
        _set_timesteps(scheduler, steps)
        # Not scheduler.timesteps, which DPM-Solver++ rounds to integers.
        timestep_N = scheduler.sigmas[: len(scheduler.timesteps)] * process.timesteps
    else:
        if steps > process.timesteps:
            raise UsageError(
                f"{steps} steps are more than the {process.timesteps} timesteps of this model",
                f"use --steps {process.timesteps} or fewer",
            )
        _set_timesteps(scheduler, steps)
        _drop_surplus(scheduler, steps)
        timestep_N = scheduler.timesteps
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return timestep_N.float()


def _set_timesteps(scheduler: Scheduler, steps: int) -> None:
    with warnings.catch_warnings():
        # diffusers makes NumPy arrays of tensors in a way that NumPy 2 deprecates.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        scheduler.set_timesteps(steps)


def _drop_surplus(scheduler: Scheduler, steps: int) -> None:
    """Mend diffusers' trailing spacing, which for some counts (61 of 1000) rounds to one step too many, at t = -1."""
    if int(scheduler.timesteps[-1]) < 0:
        scheduler.timesteps = scheduler.timesteps[:steps]
        scheduler.num_inference_steps = steps
        if hasattr(scheduler, "sigmas"):
            scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])
