"""The clean image itself; strong with large patches, best with the velocity weighting."""

from __future__ import annotations

from ..config import DiffusionConfig
from .contract import Objective
from .regression import Regression


def objective(config: DiffusionConfig) -> Objective:
    """Squared error of the predicted image."""
    return Regression("x0", config)
