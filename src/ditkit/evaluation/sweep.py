"""Sweep(): every combination of settings."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli import console
from ..io import text as io_text

if TYPE_CHECKING:
    import numpy as np

    from ..checkpoint.loading import Trained
    from ..cli.sample_request import SampleRequest
    from .judge import Judge


LISTS = {"--sampler": "sampler", "--steps": "steps", "--guidance": "guidance", "--reuse": "reuse", "--ema": "ema"}
SHOWN = 12  # images of each way in the picture
COLUMNS = {  # metric: (heading, format)
    "frechet": ("Fréchet", "{:.3f}"),
    "kid": ("KID", "{:.4f}"),
    "precision": ("precision", "{:.1%}"),
    "recall": ("recall", "{:.1%}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "inception_score": ("IS", "{:.2f}"),
}


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What is to be drawn, all checked, before torch is there."""

    order: SampleRequest  # the first of the ways
    ways: list[SampleRequest]
    samples: int | None
    features: str | None

    @property
    def shown(self) -> list[str]:
        """The labels of the images in the picture."""
        return self.order.labels[:SHOWN]

    @property
    def varied(self) -> list[str]:
        """The settings that are not the same in all ways."""
        return [name for name in LISTS.values() if len({setting(way, name) for way in self.ways}) > 1] or ["steps"]


class Sweep:
    """What has been drawn so far, and the files of it."""

    def __init__(self, plan: SweepPlan, folder: Path):
        self.plan, self.folder = plan, folder
        self.rows: list[dict[str, Any]] = []
        self.images: list[np.ndarray] = []

    def write(self) -> None:
        """The picture, the table and the rows; nothing if there is nothing."""
        if not self.rows:
            return
        from ..io.atomic import make_folder, write_atomically
        from ..visual.grid import grid, save_png

        make_folder(self.folder)
        plan = self.plan
        captions = plan.shown * len(self.rows) if plan.order.info.labels else None
        picture = grid(
            self.images,
            len(plan.shown),
            captions=captions,
            row_names=[_name(row, plan.varied) for row in self.rows],
            title=f"{plan.order.name}, seed {plan.order.seed}",
        )
        save_png(picture, self.folder / "sweep.png", {"seed": str(plan.order.seed), "software": "ditkit"})
        write_atomically(self.folder / "sweep.md", "\n".join(self.table()) + "\n")
        write_atomically(self.folder / "sweep.json", json.dumps(self.record(), indent=1) + "\n")

    def record(self) -> dict[str, Any]:
        """All of it as plain data."""
        order = self.plan.order
        about = {"model": order.origin, "step": order.info.step, "seed": order.seed, "labels": self.plan.shown}
        return {**about, "samples": self.plan.samples, "ways": self.rows}

    def table(self) -> list[str]:
        """Lines of Markdown; the best of each metric is bold."""
        metrics = [key for key in COLUMNS if any(key in row.get("metrics", {}) for row in self.rows)]
        names = [name for name in LISTS.values() if any(row[name] is not None for row in self.rows)]
        heads = [*names, "calls", "ms an image", *(COLUMNS[key][0] for key in metrics)]
        rows = []
        best = {key: _best(key, [row["metrics"][key] for row in self.rows]) for key in metrics}
        for row in self.rows:
            cells = [f"{row[name]:g}" if isinstance(row[name], float) else str(row[name]) for name in names]
            cells += [str(row["calls"]), f"{1000 * row['seconds_an_image']:.0f}"]
            for key in metrics:
                text = COLUMNS[key][1].format(row["metrics"][key])
                cells.append(f"**{text}**" if row["metrics"][key] == best[key] else text)
            rows.append(cells)
        return io_text.markdown(heads, rows)


def setting(way: SampleRequest, name: str) -> str | float | None:
    """One of `LISTS`, as a way has it."""
    return way.ema if name == "ema" else getattr(way.settings, name)


def _best(metric: str, values: list[float]) -> float:
    from .judge import HIGHER_IS_BETTER

    return max(values) if metric in HIGHER_IS_BETTER else min(values)  # an unbiased distance is below 0 by chance


def _name(row: dict[str, Any], varied: list[str]) -> str:
    """What tells a way from the others: `20 steps, guidance 1.5`."""
    spoken = {"sampler": "{}", "steps": "{} steps", "guidance": "guidance {:g}", "reuse": "reuse {}", "ema": "EMA {:g}"}
    return ", ".join(spoken[name].format(row[name]) for name in varied)


MOST_VARIANTS = 100


def _variants(
    lists: dict[str, str | None],
    labels: list[str] | None,
    model: str | None,
    runs_dir: Path | None,
    *,
    seed: str,
    batch_size: str,
    ema: bool,
) -> list[SampleRequest]:
    from ..cli.sample_request import request_from_flags
    from ..errors import UsageError

    for flag, text in lists.items():
        if text is not None and not all(word.strip() for word in text.split(",")):
            raise UsageError(f"{flag}: there is an empty place in {text!r}", f"e.g. {flag} 1,2")
    values = [list(dict.fromkeys(word.strip() for word in (text or "").split(","))) for text in lists.values()]
    count = 1
    for one in values:
        count *= len(one)
    if count > MOST_VARIANTS:
        raise UsageError(f"that makes {count:,} ways to draw", f"list fewer: at most {MOST_VARIANTS}")
    found = []
    for chosen in itertools.product(*values):
        flags: dict[str, Any] = {flag: word or None for flag, word in zip(lists, chosen, strict=True)}
        flags |= {"--seed": seed, "--batch-size": batch_size}
        found.append(request_from_flags(labels, flags, model=model, runs_dir=runs_dir, ema=ema))
    return found


def _draw(drawn: Sweep, device: str, *, quiet: bool, yes: bool) -> None:
    from ..cli.datasets import open_images

    plan = drawn.plan
    images = open_images(plan.order.info.config, quiet=quiet, yes=yes) if plan.samples else None
    with console.loading_torch(quiet=quiet):
        from ..checkpoint.loading import load
        from ..runtime.device import find_device
        from ..sampling.generate import sample
        from .judge import open_judge
    place = find_device(device)
    judge = None
    if images is not None:
        with console.bar("looking at real images", quiet=quiet) as show:
            judge = open_judge(
                plan.order.info.config, features=plan.features, device=place, dataset=images, on_image=show
            )
    each = plan.samples or len(plan.shown)
    trained = {path: load(path, device=place) for path in dict.fromkeys(way.weights for way in plan.ways)}
    sample(trained[plan.order.weights], plan.shown[:1], steps=2)  # what happens once only is on nobody's clock
    ways = "1 way" if len(plan.ways) == 1 else f"{len(plan.ways)} ways"
    console.say(f"{ways} of drawing {each} images each", quiet=quiet)
    with console.bar("drawing", quiet=quiet) as show:
        for number, way in enumerate(plan.ways):
            _draw_one(drawn, trained[way.weights], judge, way)
            show(number + 1, len(plan.ways))


def _draw_one(drawn: Sweep, trained: Trained, judge: Judge | None, way: SampleRequest) -> None:
    from ..sampling.generate import sample
    from .evaluate import evaluate

    plan, calls = drawn.plan, 0

    def count(_call: int, of: int, *_: Any) -> None:
        nonlocal calls
        calls = of

    started = time.perf_counter()
    shown = sample(
        trained,
        plan.shown,
        settings=way.settings,
        seed=plan.order.seed,
        batch_size=len(plan.shown),
        on_step=count,
    )
    row: dict[str, Any] = {name: setting(way, name) for name in LISTS.values()}
    row |= {"calls": calls, "seconds_an_image": (time.perf_counter() - started) / len(shown)}
    if judge is not None and plan.samples:
        found = evaluate(
            trained,
            judge,
            samples=plan.samples,
            seed=plan.order.seed,
            settings=way.settings,
            batch_size=plan.order.batch_size,
        )
        row["metrics"] = found.metrics
    drawn.images += [one.image for one in shown]
    drawn.rows.append(row)
