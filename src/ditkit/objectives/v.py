"""A blend of noise and image, signal * eps - noise * x_0 (Salimans & Ho 2022, section 4)."""

from __future__ import annotations

from ..config import DiffusionConfig
from .contract import Objective
from .regression import Regression


def objective(config: DiffusionConfig) -> Objective:
    """Squared error of the predicted v."""
    return Regression("v", config)
