"""How long until the images are good? The original's recipe and ditkit's, quality of the samples against CPU time.

`python benchmarks/time_to_quality.py` trains each contestant, keeps snapshots along the way, draws samples from each
with the EMA weights, and asks the classifier of `mnist_classifier.py` for label accuracy and Fréchet distance (as a
multiple of that of as many real images, see `mnist_quality.py`). Everything is kept in --out: after a stop, the same
command continues, and when nothing is left to do it only prints the table and draws the curves. Faces:

    python benchmarks/face_classifier.py --data-dir FOLDER
    python benchmarks/time_to_quality.py --recipe celeba --data-dir FOLDER

Time is CPU time of training alone, in minutes of two cores (120 CPU seconds), so that other work on the machine does
not count; drawing and judging are not included. The original's recipe (a pixel DiT of patch 2, width 288, depth 6;
epsilon, T = 400, linear betas, learning rate 1e-3 with 100 warm-up steps and cosine decay, batch 64, labels never
dropped) gets --minutes, and its schedule is that long; ditkit's gets the steps of its recipe, or --default-minutes.
For faces the original's recipe is scaled from 128x128 to 64x64: patch 4, width 512, depth 8, rate 1e-4,
batch 112. Both run on ditkit's engine. The original draws ancestrally in 400 calls; here DPM-Solver++ draws for it
in --steps, which is 20 times cheaper (--sampler ddpm --steps 400 for the original's own).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judges import Judge, open_judge
from mnist_classifier import CACHE

import ditkit
from ditkit import recipes
from ditkit.config import RunConfig, to_dict
from ditkit.events import Event, Saved, Stepped

DIGITS: dict[str, Any] = {
    "data": {"name": "mnist", "image_size": 28, "channels": 1, "validation": 500},
    "model": {
        "patch": 2,
        "width": 288,
        "depth": 6,
        "heads": 6,
        "mlp": "gelu",
        "positions": "1d",
        "time_activation": "selu",
    },
    "diffusion": {
        "process": "diffusion",
        "objective": "epsilon",
        "timesteps": 400,
        "stratified": False,
        "label_drop": 0.0,
    },
    "optim": {"lr": 1e-3, "schedule": "cosine", "warmup_steps": 100, "beta2": 0.999, "weight_decay": 0.01},
    "sample": {"sampler": "dpmpp", "steps": 20, "guidance": 1.0},
    "train": {"batch_size": 64, "accumulate": 4},  # parts of 16 images stay in the cache; the batch is the same
}
FACES: dict[str, Any] = {
    **DIGITS,
    "data": {"name": "celeba", "image_size": 64, "channels": 3, "label_by": "Male", "validation": 500},
    "model": {**DIGITS["model"], "patch": 4, "width": 512, "depth": 8, "heads": 8},
    "optim": {**DIGITS["optim"], "lr": 1e-4},
    "train": {"batch_size": 112, "accumulate": 14},
}
ORIGINALS = {"mnist": DIGITS, "celeba": FACES}
PROBE_STEPS = 6
CHUNK = 100  # images drawn between two writes to the disk
TWO_CORE_MINUTE = 120.0  # CPU seconds


@dataclass(frozen=True)
class Contestant:
    """One recipe in its folder: run/, clock.json (step to CPU seconds), samples and their quality by step."""

    name: str
    tree: Mapping[str, Any]
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def clock(self) -> dict[int, float]:
        """CPU seconds of training at each snapshot."""
        return {int(step): seconds for step, seconds in _read(self.folder / "clock.json", {}).items()}

    def quality(self) -> dict[int, dict[str, Any]]:
        """The figures of each snapshot."""
        return {int(step): row for step, row in _read(self.folder / "quality.json", {}).items()}


def _read(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def steps_within(contestant: Contestant, minutes: float) -> int:
    """Steps that fit into a budget, by the time of a few of them, which is measured once."""
    path = contestant.folder / "steps.json"
    if not path.exists():
        marks: list[float] = []
        settings = {"steps": PROBE_STEPS, "save_every": 10**6, "sample_columns": 1}
        overrides = {"train": settings, "data": {"validation": 0}, "sample": {"steps": 1}}

        def listen(event: Event) -> None:
            if isinstance(event, Stepped):
                marks.append(time.process_time())

        ditkit.train(recipes.build(contestant.tree, overrides), contestant.folder / "probe", listen)
        each = (marks[-1] - marks[0]) / (PROBE_STEPS - 1)  # the first step is left out
        _write(path, {"cpu_seconds_a_step": each, "steps": max(2, int(minutes * TWO_CORE_MINUTE / each))})
    return _read(path, {})["steps"]


def train(contestant: Contestant, config: RunConfig) -> None:
    """Train, or resume, to the end; the clock continues from the newest checkpoint."""
    clock = contestant.clock()
    done = max((int(path.name[5:]) for path in contestant.run.glob("checkpoints/step-*")), default=0)
    before = clock.get(done, 0.0)
    started = stepped = time.process_time()

    def listen(event: Event) -> None:
        nonlocal stepped
        if isinstance(event, Stepped):
            stepped = time.process_time()  # what follows a step is not training: validation, a grid
        elif isinstance(event, Saved):
            clock[event.step] = before + stepped - started
            _write(contestant.folder / "clock.json", clock)
            print(f"{contestant.name}: step {event.step}, {clock[event.step] / TWO_CORE_MINUTE:.1f} min", flush=True)

    if done < config.train.steps:
        ditkit.train(config, contestant.run, listen)


def with_snapshots(tree: Mapping[str, Any], steps: int, snapshots: int) -> RunConfig:
    """A recipe's settings with checkpoints at equal distances, and without previews and validation."""
    every = -(-steps // snapshots)
    train = {"steps": steps, "save_every": every, "keep_every": every, "sample_every": steps, "validate_every": steps}
    return recipes.build(tree, {"train": {**train, "sample_columns": 1}})


def draw(contestant: Contestant, step: int, count: int, sample: Mapping[str, Any]) -> torch.Tensor:
    """`count` samples of a snapshot, as many of each label: (N, C, H, W) in [-1, 1]; continues where it stopped."""
    path = contestant.folder / f"samples-{step}-{'-'.join(str(value) for value in sample.values())}.npy"
    images = [*np.load(path)] if path.exists() else []
    trained = ditkit.load(contestant.run / "checkpoints" / f"step-{step:07d}")
    while len(images) < count:
        names = trained.info.labels
        labels = [names[index % len(names)] for index in range(len(images), min(count, len(images) + CHUNK))]
        images += [image.image for image in ditkit.sample(trained, labels, seed=len(images), **sample)]
        np.save(path, np.stack(images))
    return torch.from_numpy(np.stack(images[:count])).permute(0, 3, 1, 2).float() / 127.5 - 1


def judge_all(contestant: Contestant, judge: Judge, samples: int, between: int, sample: Mapping[str, Any]) -> None:
    """Judge the snapshots that are not judged yet: `samples` images of the last one, `between` of the others."""
    quality = contestant.quality()
    for step in sorted(contestant.clock(), reverse=True):
        count = samples if step == max(contestant.clock()) else between
        if quality.get(step, {}).get("samples") == count:
            continue
        figures = judge.judge(draw(contestant, step, count, sample), torch.arange(count) % judge.classes)
        quality[step] = {"samples": count, "accuracy": figures.label_accuracy, "ratio": figures.ratio, **sample}
        _write(contestant.folder / "quality.json", quality)
        print(f"{contestant.name}: step {step}, {figures.label_accuracy:.1%}, {figures.ratio:.2f}", flush=True)


def table(contestants: list[Contestant]) -> str:
    """One line for each snapshot."""
    lines = [f"{'recipe':<10}{'step':>7}{'two-core minutes':>18}{'samples':>9}{'accuracy':>10}{'Fréchet ratio':>15}"]
    for contestant in contestants:
        for step, row in sorted(contestant.quality().items()):
            minutes = contestant.clock()[step] / TWO_CORE_MINUTE
            lines.append(
                f"{contestant.name:<10}{step:>7}{minutes:>18.1f}{row['samples']:>9}{row['accuracy']:>10.1%}{row['ratio']:>15.2f}"
            )
    return "\n".join(lines)


def verdict(original: Contestant, default: Contestant) -> str:
    """How much sooner the default is as good as the original is at its end."""
    last = max(original.quality())
    goal, whole = original.quality()[last], original.clock()[last]
    for step, row in sorted(default.quality().items()):
        if row["accuracy"] >= goal["accuracy"] and row["ratio"] <= goal["ratio"]:
            spent = default.clock()[step]
            return (
                f"the default is at least as good after {spent / TWO_CORE_MINUTE:.1f} min as the original after "
                f"{whole / TWO_CORE_MINUTE:.1f}: {whole / spent:.0f} times sooner (goal: 10)"
            )
    return "the default does not reach the original's quality"


def plot(contestants: list[Contestant], path: Path) -> None:
    """Quality against time, logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for contestant in contestants:
        rows = sorted(contestant.quality().items())
        minutes = [contestant.clock()[step] / TWO_CORE_MINUTE for step, _ in rows]
        left.plot(minutes, [row["ratio"] for _, row in rows], "o-", label=contestant.name)
        right.plot(minutes, [row["accuracy"] for _, row in rows], "o-", label=contestant.name)
    left.set(xscale="log", yscale="log", xlabel="minutes of two cores", ylabel="Fréchet distance ÷ real images'")
    right.set(xscale="log", xlabel="minutes of two cores", ylabel="label accuracy")
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    left.legend()
    figure.savefig(path)


def main() -> None:
    """Train, judge, print, draw; finished work is not repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="the original's budget in minutes of two cores")
    parser.add_argument("--samples", type=int, default=2000, help="images judged of the last snapshot")
    parser.add_argument("--between", type=int, default=500, help="images judged of the others")
    parser.add_argument("--snapshots", type=int, default=6)
    parser.add_argument("--sampler", default="dpmpp", help="of the original")
    parser.add_argument("--steps", type=int, default=20, help="the original's network calls an image")
    parser.add_argument("--recipe", choices=ORIGINALS, default="mnist")
    parser.add_argument("--data-dir", type=Path, help="CelebA, as `ditkit train celeba` takes it")
    parser.add_argument("--default-minutes", type=float, help="the default's budget (default: the steps of its recipe)")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE", help="on top of the default's recipe"
    )
    parser.add_argument("--only", choices=("original", "default"), help="train and judge this one")
    parser.add_argument("--train-only", action="store_true", help="do not judge")
    parser.add_argument("--out", type=Path, help="(default: a folder in .cache)")
    options = parser.parse_args()
    out = options.out or CACHE / (
        "time_to_quality" if options.recipe == "mnist" else f"time_to_quality-{options.recipe}"
    )
    data = {"path": str(options.data_dir)} if options.data_dir else {}
    default = recipes.load(options.recipe, recipes.merge_settings(options.set))
    trees = {"original": ORIGINALS[options.recipe], "default": to_dict(default)}
    contestants = [
        Contestant(name, {**tree, "data": {**tree["data"], **data}}, out / name) for name, tree in trees.items()
    ]
    budgets = {"original": options.minutes, "default": options.default_minutes}
    sampling = {"original": {"sampler": options.sampler, "steps": options.steps}, "default": {}}
    for contestant in contestants:
        if options.only not in (None, contestant.name):
            continue
        budget = budgets[contestant.name]
        steps = recipes.build(contestant.tree).train.steps if budget is None else steps_within(contestant, budget)
        train(contestant, with_snapshots(contestant.tree, steps, options.snapshots))
        if not options.train_only:
            judge_all(
                contestant,
                open_judge(options.recipe, options.data_dir),
                options.samples,
                options.between,
                sampling[contestant.name],
            )
    judged = [contestant for contestant in contestants if contestant.quality()]
    print(table(judged))
    if len(judged) == 2:
        print(verdict(*judged))
    if judged:
        plot(judged, out / "curves.png")


if __name__ == "__main__":
    main()
