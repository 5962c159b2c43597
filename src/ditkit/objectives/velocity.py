"""Noise minus image, the straight path's direction (Liu et al. 2022, eq. 1)."""

from __future__ import annotations

from ..config import DiffusionConfig
from .contract import Objective
from .regression import Regression


def objective(config: DiffusionConfig) -> Objective:
    """Squared error of the predicted velocity."""
    return Regression("velocity", config)
