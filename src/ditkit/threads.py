"""How torch's threads wait for one another; decided before torch is imported."""

from __future__ import annotations

import os


def calm_threads() -> None:
    """Let OpenMP threads spin only briefly before they sleep; call before torch is imported.

    GNU OpenMP spins for milliseconds by default: on a host with one busy core that doubles the time of a training step
    and can be far worse, while a short spin costs a few per cent on an idle one. What the user set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
