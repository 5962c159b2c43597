"""DPM-Solver++ 2M on a flow, second order, one network call a step; 15 to 50 steps."""

from __future__ import annotations

from ..objectives.contract import Process
from .contract import Scheduler, needs


def scheduler(process: Process) -> Scheduler:
    """diffusers' DPMSolverMultistepScheduler of order two on a flow's noise levels, ending at 0."""
    needs("flow", process, "flow-dpmpp")
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="sample", solver_order=2, final_sigmas_type="zero"
    )
