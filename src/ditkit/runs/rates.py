"""Learning rates that were found by whole runs, and what to do with one that a short test suggests."""

from __future__ import annotations

from .. import recipes
from ..config import RunConfig

FOUND_BY_WHOLE_RUNS = ("mnist", "celeba")  # recipes whose rate was; see docs/measured.md
# Settings that may differ from the recipe's, and its rate is still the one.
_NOT_OF_RATE = (
    *("optim.lr", "seed", "sample.", "data.path", "data.work", "data.max_bad", "data.reading", "data.validation"),
    *("train.log_every", "train.save_every", "train.sample_", "train.validate_every", "train.evaluate_", "train.keep"),
    "train.accumulate",
)


def recipe_of(config: RunConfig) -> str | None:
    """The recipe whose rate was found by whole runs of just this network on just these data; None if there is none."""
    from .. import recipes
    from ..runs.stored import differences

    for name in FOUND_BY_WHOLE_RUNS:
        if all(key.startswith(_NOT_OF_RATE) for key in differences(recipes.load(name), config)):
            return name
    return None


def advice(suggestion: float, configured: float | None, config: RunConfig) -> str:
    """What to do with the rate that a range test suggests, beside that of the settings, in one line."""
    if (name := recipe_of(config)) and configured:
        return f"the recipe {name} has {recipes.load(name).optim.lr:.2e}, found by whole runs: keep it"
    own = f"; the settings have {configured:.2e}" if configured else ""
    return f"to begin with: `--lr {suggestion:.2e}`{own}; which rate is best is known from whole runs only"
