"""Train the four conditionings of the paper on MNIST for the same steps and compare their validation losses.

python benchmarks/conditionings.py [--steps 600] [--runs-dir runs-conditionings]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ditkit
from ditkit.events import Event, Finished, Started, Validated

CONDITIONINGS = ("in-context", "cross-attention", "adaln", "adaln-zero")


def compare(steps: int, runs: Path) -> dict[str, tuple[int, list[float], float]]:
    """Per conditioning: parameters, validation losses (EMA weights) along the run, seconds."""
    results = {}
    for conditioning in CONDITIONINGS:
        settings = {"steps": steps, "validate_every": max(1, steps // 4), "sample_every": steps, "save_every": steps}
        config = ditkit.load_recipe(
            "mnist",
            {
                "model": {"conditioning": conditioning, "width": 192},
                "diffusion": {"weight_floor": 0.05},
                "optim": {"lr": 2e-3},
                "train": settings,
            },
        )
        losses: list[float] = []
        facts: dict[str, float] = {}

        def listen(event: Event, losses: list[float] = losses, facts: dict[str, float] = facts) -> None:
            if isinstance(event, Started):
                facts["parameters"] = event.parameters
            elif isinstance(event, Validated):
                losses.append(event.loss)
            elif isinstance(event, Finished):
                facts["seconds"] = event.seconds

        ditkit.train(config, runs / f"{conditioning}-{steps}", listen)
        results[conditioning] = (int(facts["parameters"]), losses, facts["seconds"])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs-conditionings"))
    options = parser.parse_args()
    print(
        f"{'conditioning':<16}{'parameters':>12}{'seconds':>9}   "
        f"validation loss at each quarter of {options.steps} steps"
    )
    for name, (parameters, losses, seconds) in compare(options.steps, options.runs_dir).items():
        print(f"{name:<16}{parameters:>12,}{seconds:>9.0f}   " + "  ".join(f"{loss:.4f}" for loss in losses))


if __name__ == "__main__":
    main()
