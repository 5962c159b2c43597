"""A run is judged while it trains: by the Kernel Inception Distance, for which few images suffice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from ..checkpoint.loading import Trained
from ..events import Evaluated
from ..sampling.generate import sample_batches
from .judge import Judge
from .label_plan import DATA, plan_labels
from .metrics import kid

_AS_DATA = "kid_labels_as_data"  # true in rows whose labels are as frequent as those of the real images


def measure_kid(judge: Judge, trained: Trained, at_once: int) -> tuple[dict[str, Any], Evaluated]:
    """The KID (Bińkowski et al. 2018) of a network in training, as a row of metrics.jsonl and as an event.

    `at_once` images are drawn at a time, those of the same seeds at each step, `seed`, `seed + 1` …; number, labels,
    sampler and guidance are settings.
    """
    config, step = trained.info.config, trained.info.step
    wanted = config.train.evaluate_samples
    plan = plan_labels(trained.info.labels, judge.reference.labels, wanted, config.train.evaluate_labels)
    drawn = chain.from_iterable(sample_batches(trained, plan.labels, seed=config.seed, batch_size=at_once))
    features_NF = judge.extractor.extract([sample.image for sample in drawn]).features_NF
    real = judge.reference
    distance, error = kid(features_NF, real.features_NF, labels=plan.labels, real_sums_M=real.kernel_sums_N)
    row: dict[str, Any] = {"step": step, "kid": float(f"{distance:.7g}"), "kid_error": float(f"{error:.7g}")}
    if plan.labels_as == DATA:
        row[_AS_DATA] = True
    of = f"{wanted} images" + (f", {plan.said}" if plan.said else "")
    return row, Evaluated(step=step, kid=distance, error=error, of=of)


def labels_changed(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> str | None:
    """What to say where the last KID of a run was of labels that were chosen in another way than those of `row`."""
    before = next((earlier for earlier in reversed(rows) if "kid" in earlier), None)
    if before is None or before.get(_AS_DATA, False) == row.get(_AS_DATA, False):
        return None
    until = f"until step {before['step']:,} the labels of the KID were drawn in another way than from here on"
    return f"{until}: its values do not compare (train.evaluate_labels chooses the way)"
