"""Euler's method on a flow, first order, one network call a step; 50 to 100 steps."""

from __future__ import annotations

from ..objectives.contract import Process
from .contract import Scheduler, needs


def scheduler(process: Process) -> Scheduler:
    """diffusers' FlowMatchEulerDiscreteScheduler."""
    needs("flow", process, "flow-euler")
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler()
