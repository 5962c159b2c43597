"""Heun's method on a flow, second order; N steps are 2N - 1 network calls, the last step being Euler's."""

from __future__ import annotations

from ..objectives.contract import Process
from .contract import Scheduler, needs


def scheduler(process: Process) -> Scheduler:
    """diffusers' FlowMatchHeunDiscreteScheduler (Karras et al. 2022, algorithm 1)."""
    needs("flow", process, "flow-heun")
    from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler

    return FlowMatchHeunDiscreteScheduler()
