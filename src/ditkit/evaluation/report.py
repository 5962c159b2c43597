"""What judging needs before torch is loaded, and what an evaluation has found, in words."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError, unknown
from ..io.paths import expanded

PACKAGES = {"inception": ("torch_fidelity", "evaluate"), "dinov2": ("transformers", "dinov2")}  # and the extra of each
METRICS = {  # metric: what it is called, how it is written, which way is better
    "frechet": ("{distance}", "{:.4g}", "0 is best"),
    "kid": ("KID ({features})", "{:.2g}", "0 is best"),
    "precision": ("precision", "{:.1%}", "drawn images that look real"),
    "recall": ("recall", "{:.1%}", "real images that are covered"),
    "accuracy": ("label accuracy", "{:.2%}", "images of the label that was asked for"),
    "inception_score": ("Inception Score", "{:.3g}", "more is better"),
    "memorised": ("memorised", "{:.1%}", "copies of training images"),
}


def check_features(word: str | None, channels: int) -> None:
    """Raise UsageError for an extractor that is unknown, or whose package or file is missing, before torch loads."""
    name = word or ("lenet" if channels == 1 else "inception")
    if name in PACKAGES and importlib.util.find_spec(PACKAGES[name][0]) is None:
        package, extra = PACKAGES[name]
        hint = f"`pip install 'ditkit[{extra}]'`, or choose other features with --features"
        raise UsageError(f"the features {name} need the package {package.replace('_', '-')}", hint)
    if name == "lenet" or name in PACKAGES:
        return
    if Path(name).suffix != ".onnx":
        raise unknown("extractor", name, ["lenet", *PACKAGES, "FILE.onnx"])
    if not expanded(name).is_file():
        raise UsageError(f"--features: there is no file {name}", "check the path")


def report_lines(record: Mapping[str, Any], name: str) -> Iterator[str]:
    """What was compared, and a line for each metric.

    Args:
        record: an entry of evaluation.json (see `Evaluation.record`).
        name: of the model.
    """
    drawn, features, metrics = record["drawn"], record["features"], record["metrics"]
    yield (
        f"{drawn['samples']:,} images of {name} ({drawn['sampler']}, {drawn['steps']} steps, "
        f"guidance {drawn['guidance']:g}) against {record['reference']['images']:,} real ones"
    )
    names = {"distance": features["distance"], "features": features["name"]}
    shown = {key: METRICS[key][0].format(**names) for key in METRICS if key in metrics}
    width = max(map(len, shown.values()))
    for key, title in shown.items():
        _, form, meaning = METRICS[key]
        error = f" ± {metrics['kid_error']:.2g}" if key == "kid" else ""
        yield f"{title:<{width}}  {form.format(metrics[key]) + error:<18} {meaning}"
