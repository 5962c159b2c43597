# ruff: noqa: E402 (threads and memory are set up before torch is imported)
"""How fast are images drawn? ditkit's sampler beside two others, and what each of its speed options gains.

    python benchmarks/sampling.py                        # seconds per image; --shape, --images, --steps, --threads
    python benchmarks/sampling.py --tables kernels --shape mnist --images 16    # recipes with and without the kernels
    python benchmarks/sampling.py quality RUN            # MNIST: accuracy, Fréchet distance by steps and option

The others have the same shape and random weights: the loop of the original (a plain network, one image at a time, 399
ancestral steps, no guidance) and diffusers' DiTPipeline (DDIM, guidance 4 in every step; its autoencoder is a tiny one,
so that the time is the transformer's). Each round times every case once, right after the processor's peak, which is
measured with a matrix product of size 1536. All cases share ditkit's malloc settings, which the others would not have
on their own. Long cases are timed in part and extrapolated, unless --full is given: the loop of the original from a few
calls for one image, the pipeline from two steps with all images, ditkit from 16 images (--timed) with all steps. The
error is the largest difference of a value from that of the first case; with random weights it says little about options
that change the images, see `quality`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from ditkit import recipes
from ditkit.config import RunConfig, SampleConfig
from ditkit.kernels.choice import choose
from ditkit.models.dit import DiT
from ditkit.models.size import flops
from ditkit.runtime.threads import calm_threads, keep_memory
from ditkit.sampling import block_cache
from ditkit.sampling.generate import default_batch_size, draw

calm_threads()
keep_memory()

import torch
from plain_dit import PlainDiT, ancestral

CALLS = 399  # of the original's loop
LABELS = 10
SHAPES: dict[str, dict[str, Any]] = {
    "mnist": {"channels": 1, "side": 28, "patch": 2, "width": 288, "depth": 6, "heads": 6},
    "latent": {"channels": 4, "side": 32, "patch": 2, "width": 384, "depth": 12, "heads": 6},
    "tiny": {"channels": 1, "side": 8, "patch": 2, "width": 32, "depth": 2, "heads": 2},
}


@dataclass(frozen=True)
class Case:
    """One way to draw: `run` does a part, and `whole` times that part is the whole work."""

    name: str
    run: Callable[[], torch.Tensor | None]
    whole: float
    work: Callable[[], float]  # multiply-adds of the part; call it after `run`
    part: str = ""  # what is timed, if not everything


@dataclass(frozen=True)
class Line:
    """The figures of a case."""

    name: str
    seconds_per_image: float
    ratio: float  # how many times as fast as the first case of its table
    of_peak: float
    error: float | None
    timed: str


def config_of(shape: str) -> RunConfig:
    """ditkit's settings for a shape: exact GELU, otherwise the paper's network, as a flow."""
    sizes = SHAPES[shape]
    names = ("patch", "width", "depth", "heads")
    pixels = sizes["channels"] == 1
    size = {"image_size": sizes["side"] * (1 if pixels else 8), "channels": 1 if pixels else 3}
    latents = {} if pixels else {"autoencoder": {"name": "kl", "channels": sizes["channels"], "shrink": 8}}
    return recipes.load(
        "mnist",
        {
            "data": {"name": "folder", "validation": 0, **size},
            **latents,
            "model": {
                **{name: sizes[name] for name in names},
                "norm": "layer",
                "mlp": "gelu",
                "rope": False,
                "qk_norm": False,
            },
        },
    )


def random_network(config: RunConfig) -> DiT:
    """A DiT without zero weights, so that every part of it changes the output."""
    channels, *size = config.shape
    network = DiT(config.model, channels=channels, size=(size[0], size[1]), classes=LABELS)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.02, generator=generator)
    return network.eval().requires_grad_(False)


def ditkit_case(
    name: str,
    network: DiT,
    config: RunConfig,
    images: int,
    settings: SampleConfig,
    *,
    most: int,
    batch: int | None = None,
    around: Callable[[], Any] | None = None,
) -> Case:
    """`images` images drawn by ditkit, in all steps; at most `most` of them are timed."""
    timed = min(images, most)
    each = flops(config.model, channels=config.shape[0], size=(config.shape[1], config.shape[2]))
    rows: list[int] = []

    stack = network.stack

    def counted(x_BTD: torch.Tensor, conditions: list[torch.Tensor | None]) -> torch.Tensor:
        rows.append(len(x_BTD))
        return stack(x_BTD, conditions)

    def run() -> torch.Tensor:
        rows.clear()
        network.stack = counted
        with around() if around else warnings.catch_warnings():
            return draw(
                network,
                config.diffusion,
                shape=config.shape,
                labels=[index % LABELS for index in range(timed)],
                null_label=LABELS,
                seeds=range(timed),
                settings=settings,
                device="cpu",
                batch_size=batch,
            )

    return Case(name, run, images / timed, lambda: sum(rows) * each, f"{timed} images" if timed < images else "")


def original_case(config: RunConfig, shape: dict[str, Any], images: int, *, calls: int, full: bool) -> Case:
    """The loop of the original, one image after the other."""
    torch.manual_seed(0)
    network = PlainDiT(**shape, classes=LABELS).eval()
    timed = CALLS if full else calls

    def run() -> None:
        for index in range(images if full else 1):
            ancestral(network, config.shape, index % LABELS, calls=timed)

    work = timed * (images if full else 1) * flops(config.model, channels=shape["channels"], size=(shape["side"],) * 2)
    return Case(
        "original's loop", run, 1 if full else images * CALLS / timed, lambda: work, "" if full else f"{timed} calls"
    )


def pipeline_case(config: RunConfig, shape: dict[str, Any], images: int, *, steps: int, full: bool) -> Case:
    """diffusers' DiTPipeline with guidance 4."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=shape["heads"],
        attention_head_dim=shape["width"] // shape["heads"],
        in_channels=shape["channels"],
        out_channels=shape["channels"],
        num_layers=shape["depth"],
        sample_size=shape["side"],
        patch_size=shape["patch"],
        activation_fn="gelu",
    ).eval()
    autoencoder = AutoencoderKL(
        shape["channels"], shape["channels"], block_out_channels=(4,), latent_channels=shape["channels"],
        norm_num_groups=1, layers_per_block=1, mid_block_add_attention=False,
    ).eval()  # fmt: skip
    pipeline = DiTPipeline(transformer, autoencoder, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    timed = steps if full else min(steps, 2)

    def run() -> None:
        labels = [index % LABELS for index in range(images)]
        generator = torch.Generator().manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline(labels, num_inference_steps=timed, generator=generator, output_type="pt")

    work = 2 * timed * images * flops(config.model, channels=shape["channels"], size=(shape["side"],) * 2)
    part = "" if timed == steps else f"{timed} of {steps} steps"
    return Case(f"DiTPipeline, {steps} steps, guidance 4", run, steps / timed, lambda: work, part)


@contextmanager
def no_table():
    """Conditions computed in every call."""
    before, block_cache._LARGEST_TABLE = block_cache._LARGEST_TABLE, 0
    try:
        yield
    finally:
        block_cache._LARGEST_TABLE = before


def peak(threads: int) -> float:
    """Multiply-adds per second of a large matrix product."""
    a = torch.randn(1536, 1536)
    torch.mm(a, a)
    started = clock()
    for _ in range(2 * threads):
        torch.mm(a, a)
    return 2 * threads * 1536**3 / (clock() - started)


clock: Callable[[], float] = time.perf_counter


def measure(cases: list[Case], images: int, rounds: int, threads: int, *, errors: bool) -> list[Line]:
    """Time every case once in each round, and take medians; with `errors`, compare the images with the first case's."""
    seconds: list[list[float]] = [[] for _ in cases]
    shares: list[list[float]] = [[] for _ in cases]
    results: list[torch.Tensor | None] = [None] * len(cases)
    for round_ in range(rounds):
        for index, case in enumerate(cases):
            print(f"  round {round_ + 1}: {case.name}", file=sys.stderr)
            top = peak(threads)
            started = clock()
            results[index] = case.run()
            took = clock() - started
            seconds[index].append(took * case.whole / images)
            shares[index].append(case.work() / took / top)
    first = statistics.median(seconds[0])
    plain = results[0] if errors else None
    lines = []
    for case, took, share, result in zip(cases, seconds, shares, results, strict=True):
        error = (result - plain).abs().max().item() if result is not None and plain is not None else None
        each = statistics.median(took)
        lines.append(Line(case.name, each, first / each, statistics.median(share), error, case.part or "all"))
    return lines


def peers(shape: str, images: int, options: argparse.Namespace) -> list[Case]:
    """The original, the pipeline, ditkit with the same network, and ditkit with its speed options."""
    config, sizes, full = config_of(shape), SHAPES[shape], options.full
    network, steps = random_network(config), options.steps
    guided = replace(config.sample, sampler="flow-dpmpp", steps=steps, guidance=4.0)
    interval = replace(guided, guidance_from=0.2, guidance_to=0.8)
    unguided = replace(guided, guidance=1.0)
    cases = [
        original_case(config, sizes, images, calls=options.calls, full=full),
        pipeline_case(config, sizes, images, steps=50, full=full),
        pipeline_case(config, sizes, images, steps=steps, full=full),
    ]
    for name, settings in (
        (f"ditkit, {steps} steps, guidance 4", guided),
        (f"ditkit, {steps} steps, guided in 0.2-0.8, reuse 2", replace(interval, reuse=2)),
        (f"ditkit, {steps} steps, unguided", unguided),
        (f"ditkit, {steps // 2} steps, unguided", replace(unguided, steps=steps // 2)),
        (f"ditkit, {steps} steps, unguided, reuse 2", replace(unguided, reuse=2)),
    ):
        cases.append(ditkit_case(name, network, config, images, settings, most=options.timed))
    if shape == "mnist":
        default, name = recipes.load("mnist"), "ditkit, recipe mnist as it is"
        cases.append(ditkit_case(name, random_network(default), default, images, default.sample, most=options.timed))
    return cases


def levers(shape: str, images: int, options: argparse.Namespace) -> list[Case]:
    """Each option alone, against none: all images in one batch, conditions computed in every call, always guided."""
    config = config_of(shape)
    network = random_network(config)
    plain = replace(config.sample, sampler="flow-dpmpp", steps=options.steps, guidance=4.0)
    timed = min(images, options.timed)
    fitting = default_batch_size(network, config.shape, torch.device("cpu"))
    table: list[tuple[str, SampleConfig, int | None, Any]] = [
        ("plain: one batch, no table", plain, timed, no_table),
        ("one image at a time", plain, 1, no_table),
        (f"batches of {fitting} at most", plain, None, no_table),
        ("conditions in a table", plain, timed, None),
        ("both (the default)", plain, None, None),
        ("guided in 0.2-0.8 only", replace(plain, guidance_from=0.2, guidance_to=0.8), None, None),
        ("reuse 2", replace(plain, reuse=2), None, None),
        ("reuse 3", replace(plain, reuse=3), None, None),
        (f"{options.steps // 2} steps", replace(plain, steps=options.steps // 2), None, None),
    ]
    return [
        ditkit_case(name, network, config, images, settings, most=options.timed, batch=batch, around=around)
        for name, settings, batch, around in table
    ]


def kernels(_shape: str, images: int, options: argparse.Namespace) -> list[Case]:
    """Recipes, guided and not, by eager torch and by the kernels; `_shape` is that of the other tables."""
    cases = []
    for recipe, preset in (("mnist", None), ("celeba", None), ("celeba-gpu", None), ("celeba-gpu", "dit-b/2")):
        config = recipes.load(recipe, {"model": {"preset": preset}} if preset else {})
        for guidance in (1.0, 4.0):
            settings = replace(config.sample, steps=options.steps, guidance=guidance)
            for word in ("off", "on"):
                network = random_network(config)
                compute = choose(config, torch.device("cpu"), "auto", word)
                compute.equip(network)
                said = f"{recipe} {preset or ''} guidance {guidance:g}, kernels {word} ({compute.record['dtype']})"
                most = max(2, options.timed // 4) if preset else options.timed
                cases.append(ditkit_case(said, network, config, images, settings, most=most))
    return cases


def show(title: str, lines: list[Line]) -> None:
    """Print a table."""
    print(f"\n{title}\n{'':<46}{'s/image':>9}{'ratio':>8}{'of peak':>9}{'error':>10}   timed")
    for line in lines:
        error = "" if line.error is None else f"{line.error:.1e}"
        print(
            f"{line.name:<46}{line.seconds_per_image:>9.3f}{line.ratio:>7.1f}x{line.of_peak:>9.0%}{error:>10}"
            f"   {line.timed}"
        )


def speed(options: argparse.Namespace) -> None:
    """Measure and print."""
    global clock
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    torch.set_num_threads(options.threads)
    results = []
    for shape in options.shape:
        for images in options.images:
            for title, cases in (("peers", peers), ("levers", levers), ("kernels", kernels)):
                if title in options.tables:
                    made, lines = cases(shape, images, options), []
                    together = 2 if title == "kernels" else len(made)  # a ratio is to the first of these
                    for start in range(0, len(made), together):
                        part = made[start : start + together]
                        lines += measure(part, images, options.rounds, options.threads, errors=title != "peers")
                    results.append({"shape": shape, "images": images, "table": title, "lines": [*map(asdict, lines)]})
                    if not options.json:
                        show(f"{shape}, {images} images, {options.threads} threads: {title}", lines)
    if options.json:
        print(json.dumps(results, indent=1))


def main() -> None:
    """Speed, or `quality`."""
    if sys.argv[1:2] == ["quality"]:
        from sampling_quality import main as quality

        return quality(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["mnist", "latent"])
    parser.add_argument("--images", nargs="+", type=int, default=[16, 256])
    parser.add_argument("--tables", nargs="+", choices=["peers", "levers", "kernels"], default=["peers", "levers"])
    parser.add_argument("--steps", type=int, default=20, help="sampling steps, at least 2")
    parser.add_argument("--calls", type=int, default=6, help="calls of the original's loop that are timed")
    parser.add_argument("--timed", type=int, default=16, help="images that ditkit draws if --images is larger")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: on a busy machine, one thread")
    parser.add_argument("--full", action="store_true", help="extrapolate nothing: hours")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.full:
        options.timed = max(options.images)
    return speed(options)


if __name__ == "__main__":
    main()
