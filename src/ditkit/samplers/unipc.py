"""UniPC, a predictor and corrector of second order without extra network calls (Zhao et al. 2023); 10 to 30 steps."""

from __future__ import annotations

from ..objectives.contract import Process
from .contract import Scheduler, diffusion_settings, needs


def scheduler(process: Process) -> Scheduler:
    """diffusers' UniPCMultistepScheduler of order two, ending at noise level 0."""
    needs("diffusion", process, "unipc")
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    return UniPCMultistepScheduler(**diffusion_settings(process), solver_order=2, final_sigmas_type="zero")
