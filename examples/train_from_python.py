"""Train from Python: a recipe with settings on top, and a listener for the events of the loop.

python examples/train_from_python.py [STEPS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import ditkit
from ditkit.events import Event, Stepped, Validated


def report(event: Event) -> None:
    if isinstance(event, Stepped) and event.step % 50 == 0:
        print(f"step {event.step}: loss {event.loss:.3f}, {event.images_per_second:.0f} images/s")
    elif isinstance(event, Validated):
        print(f"step {event.step}: validation loss {event.loss:.3f}")


def main(steps: int = 300) -> Path:
    config = ditkit.load_recipe("mnist", {"train": {"steps": steps, "validate_every": max(1, steps // 3)}})
    return ditkit.train(config, "runs/from-python", report)


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:2])))
