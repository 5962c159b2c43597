"""Which conditioning is best? The four blocks of the DiT paper under one budget on MNIST, as in its figure 5.

python examples/compare_conditionings.py [--steps 1500] [--samples 500] [--out conditionings]

Trains the recipe `mnist` four times, with nothing but `model.conditioning` changed, and judges the EMA weights along
the way. Runs and figures are kept in --out: after a stop, the same command continues.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import ditkit
from ditkit import recipes

CONDITIONINGS = ("in-context", "cross-attention", "adaln", "adaln-zero")
COLOURS = ("#CC79A7", "#D55E00", "#0072B2", "#009E73")
CHECKPOINTS = 4  # of each run that are judged, evenly spread


def config_of(conditioning: str, steps: int) -> ditkit.RunConfig:
    """The recipe with another conditioning, and checkpoints to judge."""
    every = max(1, steps // CHECKPOINTS)
    train = {
        "steps": every * CHECKPOINTS,
        "save_every": every,
        "keep": CHECKPOINTS,
        "sample_every": 10**6,
        "validate_every": every,
    }
    return recipes.build(recipes.tree("mnist"), {"model": {"conditioning": conditioning}, "train": train})


def figures_of(conditioning: str, steps: int, samples: int, out: Path) -> list[dict[str, Any]]:
    """Train one, or continue it, and judge its checkpoints: a row of figures for each."""
    config = config_of(conditioning, steps)
    run = ditkit.train(config, out / conditioning)
    path = run / "figures.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for step in range(config.train.save_every, config.train.steps + 1, config.train.save_every):
        if any((row["step"], row["samples"]) == (step, samples) for row in rows):
            continue
        trained = ditkit.load(run / "checkpoints" / f"step-{step:07d}")
        metrics = ditkit.evaluate(trained, ditkit.open_judge(config), samples=samples, labels_as="even").metrics
        size = sum(parameter.numel() for parameter in trained.network.parameters())
        rows.append({"step": step, "samples": samples, "parameters": size, **metrics})
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return [row for row in rows if row["samples"] == samples]


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The paper's figure 5: distance over training steps, a curve for each conditioning."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for (name, rows), colour in zip(results.items(), COLOURS, strict=True):
        axes.plot([row["step"] for row in rows], [row["frechet"] for row in rows], "o-", color=colour, label=name)
    axes.set(xlabel="training step", ylabel="Fréchet distance (LeNet)", yscale="log")
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main(*arguments: str) -> Path:
    """Train, judge, print the table, draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="of each run")
    parser.add_argument("--samples", type=int, default=500, help="drawn from each checkpoint")
    parser.add_argument("--out", type=Path, default=Path("conditionings"))
    options = parser.parse_args(arguments or None)
    results = {name: figures_of(name, options.steps, options.samples, options.out) for name in CONDITIONINGS}
    steps = [row["step"] for row in results[CONDITIONINGS[0]]]
    print("| conditioning | parameters | " + " | ".join(f"step {step:,}" for step in steps) + " | label accuracy |")
    print("|---|---|" + "---|" * (len(steps) + 1))
    for name, rows in results.items():
        distances = " | ".join(f"{row['frechet']:.2f}" for row in rows)
        print(f"| {name} | {rows[-1]['parameters'] / 1e6:.2f}M | {distances} | {rows[-1]['accuracy']:.1%} |")
    draw(results, options.out / "conditionings.png")
    print(options.out / "conditionings.png")
    return options.out / "conditionings.png"


if __name__ == "__main__":
    main()
