"""Deterministic, first order (Song et al. 2021, eq. 12 with sigma = 0); 50 to 100 steps."""

from __future__ import annotations

from ..objectives.contract import Process
from .contract import Scheduler, diffusion_settings, needs


def scheduler(process: Process) -> Scheduler:
    """DPM-Solver++ of order one, which is DDIM (Lu et al. 2022, section 4).

    Not diffusers' DDIMScheduler: when the steps do not divide T, the timestep that it steps to is not the one that
    it evaluates next.
    """
    needs("diffusion", process, "ddim")
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(**diffusion_settings(process), solver_order=1, final_sigmas_type="zero")
