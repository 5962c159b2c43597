"""Schedulers of diffusers: the process and sampler that a config file means, and the file for a model; no torch.

A scheduler's class says which process the network was trained on: betas, or a flow ("FlowMatch…").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError
from ..runs.model_info import ModelInfo

PREDICTIONS = {  # (process, objective): what a scheduler calls it
    ("diffusion", "epsilon"): "epsilon",
    ("diffusion", "learned-sigma"): "epsilon",
    ("diffusion", "v"): "v_prediction",
    ("diffusion", "x0"): "sample",
    ("flow", "velocity"): "flow_prediction",
    ("flow", "x0"): "sample",
}
FINE = 1000  # timesteps of a flow
_READ_ONLY = {("flow", "epsilon"): "epsilon"}  # its last estimates are bounded here, so it is not written
_DPM = "DPMSolverMultistepScheduler"
_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {  # sampler: class, settings of its own
    "ddim": (_DPM, {"solver_order": 1}),
    "flow-euler": (_DPM, {"solver_order": 1}),
    "ddpm": ("DDPMScheduler", {"variance_type": "fixed_small"}),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2}),
}
_SECOND_ORDER = ("dpmpp", 25, "linspace")
_DIFFUSIONS = {  # class: the sampler that is it or closest to it, its steps, the spacing that the class has by default
    "DDIMScheduler": ("ddim", 50, "leading"),
    "DDIMParallelScheduler": ("ddim", 50, "leading"),
    "DDPMScheduler": ("ddpm", 250, "leading"),
    "DDPMParallelScheduler": ("ddpm", 250, "leading"),
    "DEISMultistepScheduler": _SECOND_ORDER,
    _DPM: _SECOND_ORDER,
    "DPMSolverSDEScheduler": _SECOND_ORDER,
    "DPMSolverSinglestepScheduler": _SECOND_ORDER,
    "EulerAncestralDiscreteScheduler": ("ddpm", 250, "linspace"),
    "EulerDiscreteScheduler": ("ddim", 50, "linspace"),
    "HeunDiscreteScheduler": _SECOND_ORDER,
    "KDPM2AncestralDiscreteScheduler": _SECOND_ORDER,
    "KDPM2DiscreteScheduler": _SECOND_ORDER,
    "LMSDiscreteScheduler": _SECOND_ORDER,
    "PNDMScheduler": ("dpmpp", 25, "leading"),
    "SASolverScheduler": _SECOND_ORDER,
    "UniPCMultistepScheduler": ("unipc", 25, "linspace"),
}
_FLOWS = {
    "FlowMatchEulerDiscreteScheduler": ("flow-euler", 50),
    "FlowMatchHeunDiscreteScheduler": ("flow-heun", 25),
}
_OWN = {  # class: the sampler that takes the very same steps
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "UniPCMultistepScheduler": "unipc",
    "FlowMatchEulerDiscreteScheduler": "flow-euler",
    "FlowMatchHeunDiscreteScheduler": "flow-heun",
}
_AS_HERE: dict[str, Any] = {  # settings of a scheduler's steps: what ditkit's samplers do
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "thresholding": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "shift": 1.0,
    "flow_shift": 1.0,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "algorithm_type": "dpmsolver++",
}
_GUIDANCE = 4.0  # DiTPipeline's own default


class Schedule(NamedTuple):
    """What a scheduler's settings mean here: the sections [diffusion] and [sample], and what differs, in words."""

    diffusion: dict[str, Any]
    sample: dict[str, Any]
    note: str  # "" where nothing differs


def scheduler_config(info: ModelInfo) -> tuple[str, dict[str, Any]]:
    """Class and settings of the scheduler of diffusers that is, or is closest to, the model's own sampler."""
    diffusion, sample = info.config.diffusion, info.config.sample
    name, own = _SCHEDULERS.get(sample.sampler, (_DPM, {"solver_order": 2}))
    settings = {
        "num_train_timesteps": diffusion.timesteps,
        "prediction_type": PREDICTIONS[diffusion.process, diffusion.objective],
        **own,
    }
    if name == "DDPMScheduler":
        settings |= {"clip_sample": sample.clamp, "clip_sample_range": 1.0}
    else:  # a threshold of at least and at most 1 is what sample.clamp does
        settings |= {"thresholding": sample.clamp, "sample_max_value": 1.0, "final_sigmas_type": "zero"}
    if diffusion.process == "flow":
        return name, {**settings, "use_flow_sigmas": True, "flow_shift": 1.0}
    betas = {**dict(zip(("beta_start", "beta_end"), diffusion.betas, strict=True)), "beta_schedule": "linear"}
    return name, {**settings, **betas, "timestep_spacing": "trailing"}


def read_scheduler_config(tree: Mapping[str, Any], path: Path, *, learned_sigma: bool, pixels: bool) -> Schedule:
    """The meaning of a scheduler's file. Raises CheckpointError, by name, for a process that ditkit does not have."""
    name = str(tree.get("_class_name"))
    flow = name in _FLOWS or bool(tree.get("use_flow_sigmas"))
    if name not in _FLOWS and name not in _DIFFUSIONS:
        raise CheckpointError(
            f"{path}: ditkit does not have the process of {name}",
            "it has diffusions with linear betas (DDIM, DDPM, DPMSolver, UniPC, Euler, PNDM …) and flows "
            "(FlowMatchEuler, FlowMatchHeun)",
        )
    diffusion = _process(tree, path, flow=flow, learned_sigma=learned_sigma)
    return _sampling(name, tree, diffusion, pixels=pixels)


def linear_ends(betas: Sequence[float]) -> tuple[float, float] | None:
    """The first and the last of a noise schedule that rises linearly, but for rounding; None for another."""
    start, end, last = betas[0], betas[-1], max(1, len(betas) - 1)
    bent = max(abs(beta - start - (end - start) * index / last) for index, beta in enumerate(betas))
    return (float(f"{start:.6g}"), float(f"{end:.6g}")) if bent <= 1e-3 * end else None


def _process(tree: Mapping[str, Any], path: Path, *, flow: bool, learned_sigma: bool) -> dict[str, Any]:
    """The section [diffusion]."""
    is_velocity = tree.get("_class_name") in _FLOWS  # which name no prediction
    prediction = "flow_prediction" if is_velocity else tree.get("prediction_type", "epsilon")
    process = "flow" if flow else "diffusion"
    pairs = (PREDICTIONS | _READ_ONLY).items()
    objectives = {type_: name for (kind, name), type_ in pairs if kind == process and name != "learned-sigma"}
    wrong = {} if prediction in objectives else {"prediction_type": prediction}
    if not flow:
        if (schedule := tree.get("beta_schedule", "linear")) != "linear":
            wrong["beta_schedule"] = schedule
        wrong |= {"rescale_betas_zero_snr": "true"} if tree.get("rescale_betas_zero_snr") else {}
        if (betas := tree.get("trained_betas")) and linear_ends(betas) is None:
            wrong["trained_betas"] = "a list that is not linear"
    elif tree.get("invert_sigmas"):
        wrong["invert_sigmas"] = "true"
    if wrong:
        listed = ", ".join(f"{key}={value}" for key, value in wrong.items())
        raise CheckpointError(
            f"{path}: ditkit has no {process} process of {listed}",
            "it has linear betas with epsilon, sample or v_prediction, and flows with flow_prediction, sample or "
            "epsilon",
        )
    objective = objectives[prediction]
    settings = {
        "process": process,
        "objective": "learned-sigma" if learned_sigma and objective == "epsilon" and not flow else objective,
        "timesteps": int(tree.get("num_train_timesteps", FINE)),
    }
    if flow:
        return settings
    if betas := tree.get("trained_betas"):
        ends = linear_ends(betas) or (0.0, 0.0)
        return settings | {"timesteps": len(betas), "beta_start": ends[0], "beta_end": ends[1]}
    usual = {"beta_start": 1e-4, "beta_end": 2e-2}  # diffusers' own, whatever the number of timesteps
    return settings | {key: float(tree.get(key, value)) for key, value in usual.items()}


def _sampling(name: str, tree: Mapping[str, Any], diffusion: dict[str, Any], *, pixels: bool) -> Schedule:
    """The sampler that is the scheduler or closest to it, and which of the scheduler's settings it does not have."""
    sampler, steps, spacing = _DIFFUSIONS[name] if name in _DIFFUSIONS else (*_FLOWS[name], "trailing")
    if sampler == "dpmpp" and tree.get("solver_order") == 1:
        sampler, steps = "ddim", 50
    flow = diffusion["process"] == "flow"
    if flow and not sampler.startswith("flow-"):
        sampler, steps, spacing = (
            ("flow-euler", 50, "trailing") if sampler == "ddim" else ("flow-dpmpp", 25, "trailing")
        )
    stated = {"timestep_spacing": spacing, "clip_sample": name.startswith(("DDIM", "DDPM")), **tree}
    if flow:
        stated["timestep_spacing"] = "trailing"  # it has no meaning there
    bounded = (stated["clip_sample"] and stated.get("clip_sample_range", 1.0) == 1) or (
        stated.get("thresholding") and stated.get("sample_max_value", 1.0) == 1
    )
    clamp = pixels and bool(bounded)
    if clamp:
        stated |= {"clip_sample": False, "thresholding": False}
    other = [f"{key}={stated[key]}".lower() for key, here in _AS_HERE.items() if stated.get(key, here) != here]
    sample = {"sampler": sampler, "steps": min(steps, diffusion["timesteps"]), "guidance": _GUIDANCE, "clamp": clamp}
    return Schedule(diffusion, sample, _difference(name, sampler, other))


def _difference(name: str, sampler: str, other: list[str]) -> str:
    """A line on what the pipeline's sampling does otherwise."""
    same = _OWN.get(name, sampler if name == _DPM else "") == sampler
    if same and not other:
        return ""
    listed = f" ({', '.join(other)})" if other else ""
    return f"drawn with {sampler}, where the pipeline has {name}{listed}: the same seed gives another image there"
