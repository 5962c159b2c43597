"""What checkpoints cost: the share of a run's time spent on saving at the recipe's own interval.

    python benchmarks/save_cost.py [RECIPE] [--steps 60] [--saves 5]

A short run saves far more often than the recipe would; steps and saves are timed in the same run, so that a busy
machine slows both. Sampling and validation are left out: they would only make the share smaller.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ditkit import recipes
from ditkit.events import Stepped
from ditkit.training import loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="mnist")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    interval = recipes.load(options.recipe).train.save_every
    every = options.steps // options.saves
    never = {"sample_every": 10**9, "validate_every": 10**9}
    # One step more than is timed: the last one draws samples.
    quick = {"train": {"steps": options.steps + 1, "save_every": every, **never}, "data": {"validation": 0}}
    step_seconds, save_seconds = measure(recipes.load(options.recipe, quick), options.device)
    step, save = statistics.median(step_seconds), statistics.median(save_seconds[: options.saves])
    share = save / (interval * step + save)
    print(f"{options.recipe}: a step {1000 * step:.1f} ms, a save {1000 * save:.1f} ms (medians of {len(step_seconds)}")
    print(f"and {options.saves}); a save after every {interval} steps takes {100 * share:.3f} % of the time")


def measure(config: Any, device: str) -> tuple[list[float], list[float]]:
    """Seconds of each step and of each save of a run."""
    steps: list[float] = []
    saves: list[float] = []
    save, last = loop.save, [0.0]

    def timed_save(*args: Any) -> None:
        before = time.perf_counter()
        save(*args)
        saves.append(time.perf_counter() - before)
        last[0] = 0.0

    def listen(event: Any) -> None:
        now = time.perf_counter()
        if isinstance(event, Stepped):
            if last[0]:
                steps.append(now - last[0])
            last[0] = now

    loop.save = timed_save
    with tempfile.TemporaryDirectory() as folder:
        loop.train(config, Path(folder) / "run", listen, device=device)
    return steps, saves


if __name__ == "__main__":
    main()
