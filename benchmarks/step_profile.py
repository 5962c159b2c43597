"""Where does the time of a training step go? torch's profiler over the steps that `training_step.py` times.

    python benchmarks/step_profile.py [--shape mnist|latent] [--peer ditkit|diffusers|plain] [--steps 5]

One thread, not compiled. Prints the share of each kind of operation in the CPU time of all operations. Other code could
only speed up what is neither a matrix product nor attention: those two are torch's own in every implementation.
"""

# ruff: noqa: E402 (memory is set up before torch is imported)
from __future__ import annotations

import argparse
from collections import Counter

from ditkit.runtime.threads import keep_memory

keep_memory()

import torch
import training_step
from torch.profiler import ProfilerActivity, profile

KINDS = {  # part of an operation's name -> its kind; the first match counts
    "attention": "attention",
    "mm": "matrix products",
    "linear": "matrix products",
    "gelu": "GELU",
    "adamw": "AdamW, EMA, clipping",
    "foreach": "AdamW, EMA, clipping",
    "lerp": "AdamW, EMA, clipping",
    "norm": "normalisation",
}


def kind_of(operation: str) -> str:
    """The kind that an operation of torch belongs to."""
    return next((kind for part, kind in KINDS.items() if part in operation.lower()), "everything else")


def main() -> None:
    """Two steps to warm up, then the profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=training_step.SHAPES, default="mnist")
    parser.add_argument("--peer", choices=training_step.PEERS, default="ditkit")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options.compiled = False
    step = getattr(training_step, f"{options.peer}_step")(options)
    for number in range(2):
        step(number)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for number in range(2, 2 + options.steps):
            step(number)
    spent = Counter[str]()
    for operation in profiler.key_averages():
        spent[kind_of(operation.key)] += operation.self_cpu_time_total
    for kind, time in spent.most_common():
        print(f"{kind:22} {time / spent.total():5.1%}")


if __name__ == "__main__":
    main()
