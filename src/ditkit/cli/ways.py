"""The ways of drawing that `ditkit sweep` compares, and the picture, table and rows that it makes of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    import numpy as np

    from .order import Order

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
class Plan:
    """What is to be drawn, all checked, before torch is there."""

    order: Order  # the first of the ways
    ways: list[Order]
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

    def __init__(self, plan: Plan, folder: Path):
        self.plan, self.folder = plan, folder
        self.rows: list[dict[str, Any]] = []
        self.images: list[np.ndarray] = []

    def write(self) -> None:
        """The picture, the table and the rows; nothing if there is nothing."""
        if not self.rows:
            return
        from ..durable import make_folder, write_atomically
        from ..images import grid, save_png

        make_folder(self.folder)
        plan = self.plan
        captions = plan.shown * len(self.rows) if plan.order.card.labels else None
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
        about = {"model": order.origin, "step": order.card.step, "seed": order.seed, "labels": self.plan.shown}
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
        return words.markdown(heads, rows)


def setting(way: Order, name: str) -> str | float | None:
    """One of `LISTS`, as a way has it."""
    return way.ema if name == "ema" else getattr(way.settings, name)


def _best(metric: str, values: list[float]) -> float:
    from ..evaluation.judge import HIGHER_IS_BETTER

    return max(values) if metric in HIGHER_IS_BETTER else min(values)  # an unbiased distance is below 0 by chance


def _name(row: dict[str, Any], varied: list[str]) -> str:
    """What tells a way from the others: `20 steps, guidance 1.5`."""
    spoken = {"sampler": "{}", "steps": "{} steps", "guidance": "guidance {:g}", "reuse": "reuse {}", "ema": "EMA {:g}"}
    return ", ".join(spoken[name].format(row[name]) for name in varied)
