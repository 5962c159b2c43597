# ruff: noqa: E402 (threads and memory are set up before torch is imported)
"""How fast does JAX sample? One compiled scan against torch's loop: same model, settings, batches and CPU.

    taskset -c 1 python benchmarks/jax_sampling.py            # --model, --images, --rounds

Both sample in turn; the figures are medians of CPU time. A first call warms each up; that of JAX has a column of its
own because it compiles. Sampler, steps and guidance are those stored with the model. Pin the process to one core, as
above, so that both use equally many.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from ditkit.checkpoint import loading
from ditkit.jax.files import load
from ditkit.jax.sampling import sample
from ditkit.runtime.threads import calm_threads, keep_memory
from ditkit.sampling import generate

calm_threads()
keep_memory()

import numpy as np
import torch


def seconds(work: Callable[[], object]) -> float:
    """CPU time of all threads of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--images", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    jax_model, torch_model = load(arguments.model), loading.load(arguments.model)
    settings = jax_model.info.config.sample
    print(f"{settings.sampler}, {settings.steps} steps, guidance {settings.guidance}; CPU seconds, medians of rounds")
    print(f"{'images':>6} {'torch':>8} {'JAX':>8} {'torch/JAX':>10} {'first JAX':>10} {'difference':>10}")
    for images in arguments.images:

        def in_torch(images: int = images) -> list[generate.Sample]:
            return generate.sample(torch_model, images, batch_size=images)

        def in_jax(images: int = images) -> list[generate.Sample]:
            return sample(jax_model, images, batch_size=images)

        first = seconds(in_jax)
        pairs = zip(in_torch(), in_jax(), strict=True)
        difference = max(int(np.abs(a.image.astype(int) - b.image.astype(int)).max()) for a, b in pairs)
        rounds = [(seconds(in_torch), seconds(in_jax)) for _ in range(arguments.rounds)]
        torch_s, jax_s = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(torch_seconds / jax_seconds for torch_seconds, jax_seconds in rounds)
        print(f"{images:>6} {torch_s:>8.3f} {jax_s:>8.3f} {ratio:>10.2f} {first:>10.2f} {difference:>10}")


if __name__ == "__main__":
    main()
