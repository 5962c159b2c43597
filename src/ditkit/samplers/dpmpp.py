"""DPM-Solver++ 2M, deterministic, second order (Lu et al. 2022); 15 to 50 steps."""

from __future__ import annotations

from ..objectives.contract import Process
from .contract import Scheduler, diffusion_settings, needs


def scheduler(process: Process) -> Scheduler:
    """diffusers' DPMSolverMultistepScheduler of order two, ending at noise level 0."""
    needs("diffusion", process, "dpmpp")
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(**diffusion_settings(process), solver_order=2, final_sigmas_type="zero")
