"""What do fewer steps, and options that change the images, cost?

    python benchmarks/sampling.py quality RUN [--samples 2000]

For each sampler that fits the run's process, number of steps, guidance interval and reuse of block outputs: label
accuracy, Fréchet distance in the features of `mnist_classifier.py` divided by that of as many real images, seconds.
Each result is written to a JSON file at once, so that the same command continues and measures nothing twice. Seconds
are comparable only if nothing else was running.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mnist_classifier import CACHE, DEFAULT_OUT, Classifier, features_and_labels, mnist_folder, read_mnist
from mnist_quality import CLASSES, Reference, classifier_at, judge, real_reference

from ditkit.checkpoint.loading import Trained, load
from ditkit.errors import UsageError
from ditkit.objectives.contract import process_of
from ditkit.registry import SAMPLERS
from ditkit.samplers.contract import open_scheduler
from ditkit.sampling.generate import sample

ALWAYS = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Settings to draw with."""

    sampler: str
    steps: int
    interval: tuple[float, float] = ALWAYS
    reuse: int = 1
    guidance: float


def variants(trained: Trained, options: argparse.Namespace) -> Iterator[Variant]:
    """Every sampler with every number of steps, then the run's own sampler with each lever, or as the options say."""
    own = trained.info.config.sample
    guidance = own.guidance if options.guidance is None else options.guidance
    fitting = [name for name in options.samplers or SAMPLERS.names() if _fits(trained, name)]
    intervals = [tuple(map(float, text.split("-"))) for text in options.intervals]
    for name in fitting:
        for steps in options.steps:
            yield Variant(sampler=name, steps=steps, guidance=guidance)
    for name in fitting if options.samplers else [own.sampler]:
        for steps in options.lever_steps:
            for interval in [ALWAYS, *intervals]:
                for reuse in [1, *options.reuse]:
                    yield Variant(sampler=name, steps=steps, interval=interval, reuse=reuse, guidance=guidance)
            yield Variant(sampler=name, steps=steps, guidance=1.0)


def _fits(trained: Trained, name: str) -> bool:
    try:
        open_scheduler(name, process_of(trained.info.config.diffusion))
    except UsageError:
        return False
    return name != "ddpm"  # its few steps are noise


def measure(
    trained: Trained, variant: Variant, samples: int, classifier: Classifier, reference: Reference
) -> dict[str, Any]:
    """Draw and judge: accuracy, Fréchet distance, its ratio to that of real images, seconds."""
    labels = [trained.info.labels[index % CLASSES] for index in range(samples)]
    started = time.perf_counter()
    cpu = time.process_time()
    drawn = sample(
        trained,
        labels,
        sampler=variant.sampler,
        steps=variant.steps,
        guidance=variant.guidance,
        guidance_interval=variant.interval,
        reuse=variant.reuse,
    )
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    images = torch.stack([torch.from_numpy(image.image).permute(2, 0, 1).float() / 127.5 - 1 for image in drawn])
    quality = judge(images, torch.tensor([int(label) for label in labels]), classifier, reference)
    return {
        "accuracy": quality.label_accuracy,
        "frechet": quality.frechet,
        "ratio": quality.ratio,
        "seconds": seconds,
        "cpu": cpu,
    }


def show(variant: Variant, result: dict[str, Any], samples: int) -> str:
    """One line of the table."""
    low, high = variant.interval
    guided = "no" if variant.guidance == 1 else f"{low:g}-{high:g}"
    return (
        f"{variant.sampler:<12}{variant.steps:>6}{variant.guidance:>10.2f}{guided:>10}{variant.reuse:>7}{result['accuracy']:>10.2%}"
        f"{result['ratio']:>9.2f}{1000 * result['seconds'] / samples:>12.1f}{1000 * result['cpu'] / samples:>10.1f}"
    )


def main(arguments: list[str]) -> None:
    """Measure the missing variants, and print all."""
    parser = argparse.ArgumentParser(
        prog="sampling.py quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run, checkpoint or weights file of MNIST digits")
    parser.add_argument("--samples", type=int, default=2000, help="a multiple of ten")
    parser.add_argument("--samplers", nargs="+", help="(default: all that fit; the levers with the run's own)")
    parser.add_argument("--steps", nargs="*", type=int, default=[5, 10, 20, 50])
    parser.add_argument("--lever-steps", nargs="*", type=int, default=[10, 20])
    parser.add_argument("--intervals", nargs="*", default=["0.2-0.8", "0-0.7", "0.3-1"], help="besides 0-1")
    parser.add_argument("--reuse", nargs="*", type=int, default=[2, 3], help="besides 1")
    parser.add_argument("--guidance", type=float, help="(default: the run's)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cache", type=Path, default=CACHE / "sampling_quality.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    trained = load(options.run)
    classifier = classifier_at(DEFAULT_OUT)
    features, _ = features_and_labels(classifier, (real := read_mnist(mnist_folder(), "train"))[0])
    reference = real_reference(features, real[1], per_class=options.samples // CLASSES)
    weights = hashlib.sha256(trained.source.read_bytes()).hexdigest()[:16]
    results = json.loads(options.cache.read_text("utf-8")) if options.cache.exists() else {}
    print(
        f"{'sampler':<12}{'steps':>6}{'guidance':>10}{'guided':>10}{'reuse':>7}{'accuracy':>10}{'Fréchet':>9}", end=""
    )
    print(f"{'ms/image':>12}{'cpu ms':>10}")
    for variant in dict.fromkeys(variants(trained, options)):
        key = json.dumps([weights, options.samples, asdict(variant)])
        if key not in results:
            results[key] = measure(trained, variant, options.samples, classifier, reference)
            options.cache.parent.mkdir(parents=True, exist_ok=True)
            options.cache.write_text(json.dumps(results, indent=1), encoding="utf-8")
        print(show(variant, results[key], options.samples), flush=True)
