"""One training step (forward, loss, backward, AdamW, EMA) beside diffusers' and a plain one in the original's style.

    python benchmarks/training_step.py [--shape digits|faces|mnist|latent|base|tiny] [--threads 2] [--rounds 7] [--json]
    python benchmarks/training_step.py --compiled       # by torch.compile, which excludes the kernels
    python benchmarks/training_step.py --own-block      # ditkit's block (RMSNorm, SwiGLU, rotary positions, QK norm)
    python benchmarks/training_step.py --avx2           # as on a processor without AVX-512, in float32
    python benchmarks/training_step.py --busy           # one core kept busy: ditkit's own choice, the peers' default
    python benchmarks/training_step.py --input          # real batches against a constant one
    python benchmarks/training_step.py --long 10000     # tiny steps: time and memory in each tenth, which must be flat

Every peer runs in a process of its own, because the settings of malloc and OpenMP hold for a whole process; a parent
lets them step in turn and takes medians. Before each step a peer multiplies two matrices, which measures the peak of
the processor at that moment. The networks have one size, every step has a learning rate above 0, and peers do what
their users would do: torch's AdamW with its defaults, and the EMA as a loop. Memory is the peak of the process. Compare
ratios; single times depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "mnist": {"size": 28, "channels": 1, "patch": 2, "width": 288, "depth": 6, "heads": 6, "batch": 64},
    "latent": {"size": 32, "channels": 4, "patch": 2, "width": 384, "depth": 12, "heads": 6, "batch": 8},
    "digits": {"size": 28, "channels": 1, "patch": 7, "width": 128, "depth": 6, "heads": 4, "batch": 32},
    "faces": {"size": 64, "channels": 3, "patch": 8, "width": 256, "depth": 6, "heads": 8, "batch": 16},
    "base": {"size": 32, "channels": 4, "patch": 2, "width": 768, "depth": 12, "heads": 12, "batch": 4},
    "tiny": {"size": 16, "channels": 1, "patch": 4, "width": 64, "depth": 2, "heads": 4, "batch": 16},
}
PEERS = ("ditkit", "ditkit-eager", "diffusers", "plain")
AVX2 = {  # makes oneDNN, MKL, torch and ditkit's compiler leave out AVX-512
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "DITKIT_KERNELS_ARCH": "-march=x86-64-v3",
}
CLASSES, TIMESTEPS, DECAY, RATE = 10, 1000, 0.9999, 1e-4
Step = Callable[[int], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="mnist")
    parser.add_argument("--threads", type=int, help="of every peer; without it each has its own default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="ditkit compiles its network; the peers do not")
    parser.add_argument("--own-block", action="store_true", help="ditkit's recipes' block instead of the paper's")
    parser.add_argument("--avx2", action="store_true", help="all peers compute with AVX2 only")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--busy", action="store_true", help="beside a process that keeps a core busy")
    parser.add_argument("--input", action="store_true", help="real batches against a constant one")
    parser.add_argument("--long", type=int, metavar="N", help="N steps of the tiny shape")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.input and SHAPES[options.shape]["channels"] != 1:
        parser.error("--input reads the digits: take a shape of one channel")
    if options.peer:
        serve(options)
    elif options.long:
        report_long(options)
    elif options.input:
        report_input(options)
    else:
        report_peers(options)


# --- the parent


class Peer:
    """A process that takes one step on request."""

    def __init__(self, name: str, options: argparse.Namespace):
        command = [sys.executable, __file__, "--peer", name, "--shape", options.shape]
        command += ["--threads", str(options.threads)] if options.threads else []
        command += [word for word in ("--compiled", "--own-block") if getattr(options, word[2:].replace("-", "_"))]
        environment = {**os.environ, **({"OMP_NUM_THREADS": str(options.threads)} if options.threads else {})}
        environment |= AVX2 if options.avx2 else {}
        self.name, self.rows = name, list[dict[str, float]]()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=environment
        )
        self.ready = self.ask()

    def ask(self) -> dict[str, Any]:
        """Request a step and return the answer; the first answer, without a request, says that the process is ready."""
        assert self.process.stdin and self.process.stdout
        if hasattr(self, "ready"):
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended")
        return json.loads(line)

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def median(self, key: str) -> float:
        return statistics.median(row[key] for row in self.rows)


def take_turns(names: tuple[str, ...], options: argparse.Namespace) -> list[Peer]:
    """Peers after all rounds; in each round every peer takes one step, one after the other."""
    peers = [Peer(name, options) for name in names]
    for _ in range(options.rounds):
        for peer in peers:
            peer.rows.append(peer.ask())
    for peer in peers:
        peer.end()
    return peers


def report_peers(options: argparse.Namespace) -> None:
    """The table: milliseconds, part of the peak, ratios to each peer, memory."""
    spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if options.busy else None
    try:
        peers = take_turns(PEERS, options)
    finally:
        if spinner:
            spinner.kill()
            spinner.wait()
    work = 2 * 3 * SHAPES[options.shape]["batch"] * macs(SHAPES[options.shape])
    key = "wall" if options.busy else "cpu"
    own = peers[0]
    table = [
        {
            "peer": peer.name,
            "threads": peer.ready["threads"],
            "cpu_ms": 1e3 * peer.median("cpu"),
            "wall_ms": 1e3 * peer.median("wall"),
            "of_peak": statistics.median(work / row["cpu"] / row["peak"] for row in peer.rows),
            f"{key}_ratio": statistics.median(
                peer_row[key] / own_row[key] for peer_row, own_row in zip(peer.rows, own.rows, strict=True)
            ),
            "memory_mb": peer.rows[-1]["memory"],
            "memory_ratio": own.rows[-1]["memory"] / peer.rows[-1]["memory"],
        }
        for peer in peers
    ]
    if options.json:
        print(
            json.dumps({key: getattr(options, key) for key in ("shape", "compiled", "busy", "avx2")} | {"peers": table})
        )
        return
    words = [word for word, said in (("ditkit compiled", options.compiled), ("AVX2 only", options.avx2)) if said]
    print(", ".join([options.shape, f"{options.rounds} rounds", "medians", *words]))
    print(f"{'':10} threads   CPU ms  wall ms  of the peak  ditkit is faster ({key})  memory  ditkit's part of it")
    for row in table:
        print(
            f"{row['peer']:10} {row['threads']:7} {row['cpu_ms']:8.0f} {row['wall_ms']:8.0f} {row['of_peak']:11.0%} "
            f"{row[f'{key}_ratio']:19.2f} times {row['memory_mb']:8.0f} MB {row['memory_ratio']:12.2f}"
        )


def report_input(options: argparse.Namespace) -> None:
    """Steps with the digits as training reads them, against steps on one batch."""
    peers = take_turns(("ditkit", "ditkit-input"), options)
    constant, real = (1e3 * peer.median("wall") for peer in peers)
    ratio = statistics.median(b["wall"] / a["wall"] for a, b in zip(peers[0].rows, peers[1].rows, strict=True))
    if options.json:
        print(json.dumps({"constant_ms": constant, "real_ms": real, "ratio": ratio}))
    else:
        print(f"constant batch {constant:.1f} ms, real batches {real:.1f} ms of wall time: ratio {ratio:.3f}")


def report_long(options: argparse.Namespace) -> None:
    """Time of a step and resident memory in each tenth of a long run."""
    options.shape = "tiny"
    peer = Peer("ditkit-input", options)
    tenth = max(1, options.long // 10)
    rows = []
    for _ in range(10):
        answers = [peer.ask() for _ in range(tenth)]
        rows.append((1e3 * statistics.median(answer["cpu"] for answer in answers), answers[-1]["resident"]))
    peer.end()
    if options.json:
        print(json.dumps({"steps": tenth * 10, "tenths": rows}))
        return
    for number, (milliseconds, resident) in enumerate(rows, 1):
        print(f"tenth {number:2}: {milliseconds:7.3f} ms of CPU time per step, {resident:7.1f} MB resident")


def macs(shape: dict[str, Any]) -> int:
    """Multiply-adds of the matrix products of one image's forward pass."""
    tokens, width = (shape["size"] // shape["patch"]) ** 2, shape["width"]
    block = tokens * 12 * width**2 + 2 * tokens**2 * width + 6 * width**2
    return shape["depth"] * block + 2 * tokens * shape["channels"] * shape["patch"] ** 2 * width


# --- a peer, in its own process


def serve(options: argparse.Namespace) -> None:
    """Take a step for every line on stdin, and print its time and memory."""
    if options.peer.startswith("ditkit"):
        from ditkit.runtime.threads import calm_threads, choose_threads, keep_memory, take_threads

        chosen = choose_threads(str(options.threads or "auto"))
        calm_threads(chosen)
        keep_memory()
        take_threads(chosen)
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    step = {
        "ditkit": ditkit_step,
        "ditkit-eager": lambda options: ditkit_step(options, kernels="off"),
        "ditkit-input": lambda options: ditkit_step(options, real=True),
        "diffusers": diffusers_step,
        "plain": plain_step,
    }[options.peer](options)
    for number in range(2):
        step(number)
    print(json.dumps({"ready": True, "threads": torch.get_num_threads()}), flush=True)
    for number, _ in enumerate(sys.stdin, 2):
        peak = probe(1024 if options.shape != "tiny" else 256)
        wall, cpu = time.perf_counter(), time.process_time()
        step(number)
        row = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "peak": peak}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        print(json.dumps({**row, "memory": memory, "resident": resident_mb()}), flush=True)


def probe(side: int) -> float:
    """Floating-point operations per second of CPU time in a large matrix product, by all threads."""
    import torch

    left, right, out = (torch.ones(side, side) for _ in range(3))
    began = time.process_time()
    for _ in range(2):
        torch.mm(left, right, out=out)
    return 2 * 2 * side**3 / (time.process_time() - began)


def resident_mb() -> float:
    """The process's resident memory now; 0 where the system does not report it."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0.0
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def ditkit_step(options: argparse.Namespace, *, real: bool = False, kernels: str = "auto") -> Step:
    """ditkit's own engine, as `ditkit train` runs it, with its kernels where they pass their check, or without."""
    import torch

    from ditkit import optim, recipes
    from ditkit.data.batches import Batch, Batches
    from ditkit.data.contract import open_dataset
    from ditkit.ema import Ema, PowerEmas
    from ditkit.kernels.choice import choose
    from ditkit.kernels.update import WeightUpdate
    from ditkit.objectives.contract import open_objective
    from ditkit.runtime.distributed import ProcessGroup
    from ditkit.training.init_weights import fresh_network
    from ditkit.training.step import SpeedOptions, compute_gradients, open_step_context

    config = recipes.load("mnist", settings(SHAPES[options.shape], own_block=options.own_block))
    network = fresh_network(config, CLASSES, torch.device("cpu"))
    optimizer, averages = optim.adamw(network, config.optim), (Ema(network, DECAY), PowerEmas(network, ()))
    update = WeightUpdate(network, optimizer, *averages, config.optim.clip)
    speed = SpeedOptions(compile="on" if options.compiled else "off")
    objective = open_objective(config.diffusion)
    compute = choose(config, torch.device("cpu"), kernels="off" if options.compiled else kernels)
    context, _ = open_step_context(config, network, objective, torch.device("cpu"), compute, ProcessGroup(), speed)
    shape = (config.train.batch_size, *config.shape)
    constant = Batch(torch.randn(shape), torch.randint(CLASSES, shape[:1]), {})
    stream = (
        Batches(open_dataset(config.data, "train"), config.train.batch_size, 0).iterate()
        if real
        else iter(lambda: constant, None)
    )

    def step(number: int) -> None:
        compute_gradients(context, number, next(stream), "noise", lambda: [False], lambda: None)
        update(RATE, update.norm(), number + 1)
        optimizer.zero_grad(set_to_none=True)

    return step


def settings(shape: dict[str, Any], *, own_block: bool = False) -> dict[str, Any]:
    """The shape as settings of ditkit: the paper's block or the recipes', a velocity target."""
    keys = ("patch", "width", "depth", "heads")
    papers = {"norm": "layer", "mlp": "gelu-tanh", "rope": False, "qk_norm": False}
    own = {"norm": "rms", "mlp": "swiglu", "rope": True, "qk_norm": True}
    model = {**(own if own_block else papers), **{key: shape[key] for key in keys}}
    pixels = shape["channels"] != 4
    latents = {} if pixels else {"autoencoder": {"name": "kl", "channels": shape["channels"], "shrink": 8}}
    return {
        "data": {"image_size": shape["size"] * (1 if pixels else 8), "channels": shape["channels"] if pixels else 3},
        "model": model,
        "diffusion": {"objective": "velocity", "weighting": "none", "timestep_sampling": "uniform"},
        "optim": {"lr": RATE, "ema_decay": DECAY},
        "train": {"batch_size": shape["batch"]},
        **latents,
    }


def diffusers_step(options: argparse.Namespace) -> Step:
    """diffusers' DiT with the loop that its users would write."""
    from diffusers import DiTTransformer2DModel

    shape = SHAPES[options.shape]
    network = DiTTransformer2DModel(
        num_attention_heads=shape["heads"],
        attention_head_dim=shape["width"] // shape["heads"],
        in_channels=shape["channels"],
        out_channels=shape["channels"],
        num_layers=shape["depth"],
        sample_size=shape["size"],
        patch_size=shape["patch"],
        num_embeds_ada_norm=TIMESTEPS,
    )
    return users_step(shape, network, lambda x, t, y: network(x, t, class_labels=y).sample)


def plain_step(options: argparse.Namespace) -> Step:
    """A DiT as it is commonly written."""
    from plain_dit import PlainDiT

    shape = SHAPES[options.shape]
    sizes = {key: shape[key] for key in ("channels", "patch", "width", "depth", "heads")}
    network = PlainDiT(**sizes, side=shape["size"], classes=CLASSES)
    return users_step(shape, network, network)


def users_step(shape: dict[str, Any], network: Any, forward: Callable[..., Any]) -> Step:
    """Velocity loss, torch's AdamW with its defaults, the EMA as a loop over the parameters."""
    import copy

    import torch

    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    size, batch = (shape["channels"], shape["size"], shape["size"]), shape["batch"]
    x_BCHW, label_B = torch.randn(batch, *size), torch.randint(CLASSES, (batch,))

    def step(_: int) -> None:
        timestep_B, noise_BCHW = torch.randint(0, TIMESTEPS, (batch,)), torch.randn_like(x_BCHW)
        level = (timestep_B / TIMESTEPS)[:, None, None, None]
        output_BCHW = forward((1 - level) * x_BCHW + level * noise_BCHW, timestep_B, label_B)
        loss = torch.nn.functional.mse_loss(output_BCHW, noise_BCHW - x_BCHW)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
                mean.mul_(DECAY).add_(weight, alpha=1 - DECAY)

    return step


if __name__ == "__main__":
    main()
