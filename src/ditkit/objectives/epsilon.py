"""The noise that was added (Ho et al. 2020, eq. 14)."""

from __future__ import annotations

from ..config import DiffusionConfig
from .contract import Objective
from .regression import Regression


def objective(config: DiffusionConfig) -> Objective:
    """Squared error of the predicted noise."""
    return Regression("epsilon", config)
