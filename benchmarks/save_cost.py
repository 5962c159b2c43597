"""What saving costs: the part of a run's time that its checkpoints take at the recipe's own interval.

    python benchmarks/save_cost.py [RECIPE ...]

A short run that saves often; a step with a save after it, less the median of a step without one, is a save's cost.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from ditkit import recipes
from ditkit.events import Stepped
from ditkit.threads import calm_threads, keep_memory

EVERY, SAVES = 8, 6


def measure(recipe: str) -> None:
    calm_threads()
    keep_memory()
    from ditkit.training import train

    interval = recipes.load(recipe).train.save_every
    often = {"steps": EVERY * (SAVES + 1) + 2, "save_every": EVERY, "validate_every": 10**6, "sample_every": 10**6}
    images = {"name": "mnist", "validation": 8}  # enough for the cost of a step; pixels are scaled to the recipe's size
    config = recipes.load(recipe, {"train": often, "data": images, "sample": {"steps": 1}})
    times: dict[int, float] = {}

    def listen(event) -> None:
        if isinstance(event, Stepped):
            times[event.step] = time.perf_counter()

    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        train(config, Path(place) / "run", listen)
        size = sum(file.stat().st_size for file in Path(place).glob("run/checkpoints/*/*")) / 2
    between = {step: times[step + 1] - times[step] for step in sorted(times)[:-2]}
    step = statistics.median(seconds for at, seconds in between.items() if at % EVERY)
    saves = [seconds - step for at, seconds in between.items() if at % EVERY == 0]
    save = statistics.mean(saves)
    print(
        f"{recipe}: a step {step * 1e3:.0f} ms, a save of {size / 1e6:.0f} MB {save * 1e3:.0f} ms "
        f"(worst {max(saves) * 1e3:.0f}): at one in {interval} steps {100 * save / (interval * step):.2f} % of a run"
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or ["mnist", "celeba"]:
        measure(name)
