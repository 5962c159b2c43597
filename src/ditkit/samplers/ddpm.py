"""Ancestral sampling, noise in every step but the last (Ho et al. 2020, algorithm 2); needs 250 steps or more."""

from __future__ import annotations

from ..objectives.contract import Process
from .contract import Scheduler, diffusion_settings, needs


def scheduler(process: Process) -> Scheduler:
    """diffusers' DDPMScheduler with the posterior's variance."""
    needs("diffusion", process, "ddpm")
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    return DDPMScheduler(**diffusion_settings(process), variance_type="fixed_small", clip_sample=False)
