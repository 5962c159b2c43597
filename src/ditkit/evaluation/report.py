"""What judging needs before torch is loaded, and what an evaluation has found, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..errors import UsageError, unknown
from ..io.packages import check_packages
from ..io.paths import expanded, not_there
from ..io.text import plural
from .figures import FIGURES, NEGATIVE_KID, written

DEFAULT_SAMPLES = 10_000  # the Fréchet distance of fewer is too large, the more so the fewer
PACKAGES = {"inception": ("torch_fidelity", "evaluate"), "dinov2": ("transformers", "dinov2")}  # and the extra of each


def check_features(word: str | None, channels: int, otherwise: str = "choose other features with --features") -> None:
    """Raise UsageError for an extractor that is unknown, or whose package or file is missing, before torch loads.

    `otherwise` is what to do without the package.
    """
    name = word or ("lenet" if channels == 1 else "inception")
    if name in PACKAGES:
        package, extra = PACKAGES[name]
        check_packages(f"judging by the features {name}", [package], extra, otherwise)
    if name == "lenet" or name in PACKAGES:
        return
    if Path(name).suffix != ".onnx":
        raise unknown("extractor", name, ["lenet", *PACKAGES, "FILE.onnx"])
    if not expanded(name).is_file():
        raise UsageError(f"--features: there is no file {name}", not_there(name))
    check_packages("judging by the features of a .onnx file", ["onnxruntime"], "onnx", otherwise)


def check_evaluation(config: RunConfig) -> None:
    """The same for the evaluation of a run while it trains, if there is one."""
    if config.train.evaluate_every:
        check_features(None, config.data.channels, "train without --evaluate-every")


def report_lines(record: Mapping[str, Any], name: str) -> Iterator[str]:
    """What was compared, and a line for each metric.

    Args:
        record: an entry of evaluation.json (see `Evaluation.record`).
        name: of the model.
    """
    drawn, features, metrics = record["drawn"], record["features"], record["metrics"]
    yield (
        f"{drawn['samples']:,} images of {name} ({drawn['sampler']}, {plural(drawn['steps'], 'step')}, "
        f"guidance {drawn['guidance']:g}) against {record['reference']['images']:,} real ones"
    )
    yield from [record["labels"]] if record.get("labels") else []
    names = {"distance": features["distance"], "features": features["name"]}
    shown = {key: FIGURES[key].title.format(**names) for key in FIGURES if key in metrics}
    width = max(map(len, shown.values()))
    for key, title in shown.items():
        yield f"{title:<{width}}  {written(metrics, key):<18} {FIGURES[key].meaning}{_reach(record, key)}"
    yield "± is one standard error" + (f"; {NEGATIVE_KID}" if metrics.get("kid", 0) < 0 else "")


def _reach(record: Mapping[str, Any], key: str) -> str:
    """What a figure has to be read against: how many images it is of, or what real images get."""
    metrics, real, drawn = record["metrics"], record["reference"]["images"], record["drawn"]["samples"]
    if key == "frechet" and "frechet_real" in metrics:
        part = record["reference"]["part"]
        return f"; {part:,} real images against the other {real - part:,} have {metrics['frechet_real']:.4g}"
    if key in ("precision", "recall"):
        return f", of {min(drawn, record['reference'].get('features', real)):,} drawn and as many real"
    if key == "memorised":
        return f", of the first {record['neighbours']['images']:,}"
    return ""
