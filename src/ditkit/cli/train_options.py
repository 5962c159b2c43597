"""The groups of options of training, which `estimate` shares."""

from __future__ import annotations

from dataclasses import dataclass

from . import complete, parsing
from .opt import opt
from .options import AUTO, RECIPES, Latents, NetworkDevice, Output


@dataclass(frozen=True, kw_only=True)
class TrainModel(Latents):
    """Model: where its weights begin."""

    init_from: str | None = opt(
        "--init-from RUN|CHECKPOINT|FILE",
        "Begin a new run with the averaged weights of this model, which brings its architecture and objective.",
        complete=complete.run_names,
    )


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """Optimiser: how long a network learns, and how fast."""

    steps: str | None = opt("--steps N", "Train until this step.", shown=RECIPES, sets="train.steps")
    max_time: str | None = opt(
        "--max-time TIME",
        "Stop and save 90s, 10m or 1h30m after the command began; the same command continues.",
        shown="no limit",
    )
    batch_size: str | None = opt(
        "--batch-size N|auto",
        "Images in a step; auto keeps the recipe's, split into as many parts as memory requires.",
        shown=RECIPES,
        sets="train.batch_size",
        unless=AUTO,
        read=parsing.number_or_auto,
    )
    lr: str | None = opt(
        "--lr RATE|auto",
        "Peak learning rate of AdamW; auto measures one first, as `ditkit lr-find` does.",
        shown=RECIPES,
        sets="optim.lr",
        unless=AUTO,
        read=parsing.number_or_auto,
    )
    seed: str | None = opt("--seed N", "All randomness comes from it.", shown=RECIPES, sets="seed")
    force_change: list[str] | None = opt(
        "--force-change KEY",
        "Continue a run although this setting has changed: optim.lr, train.batch_size …; images for the files.",
        shown=False,
    )

    @property
    def seconds(self) -> float | None:
        """What --max-time says. Raises UsageError."""
        return None if self.max_time is None else parsing.duration(self.max_time)


@dataclass(frozen=True, kw_only=True)
class TrainOutput(Output):
    """Output: the run's name, and what is written while it trains."""

    name: str | None = opt("--name NAME", "Name of the run.", shown="the target's")
    sample_every: int | None = opt(
        "--sample-every N", "Steps between sample grids.", shown=RECIPES, sets="train.sample_every"
    )
    keep_every: str | None = opt(
        "--keep-every N",
        "Save a checkpoint at every N-th step and keep it, beside the last two and the best.",
        shown="no others",
        sets="train.keep_every",
    )
    evaluate_every: str | None = opt(
        "--evaluate-every N",
        "Steps between measurements of the KID of train.evaluate_samples (256) images against the real ones.",
        shown="never",
        sets="train.evaluate_every",
    )
    snapshot_every: str | None = opt(
        "--snapshot-every N",
        "Steps between snapshots of two averages of the weights: `sample --ema 0.05` makes one of any length of "
        "them after training. 30 to 100 in a run are enough; each takes as much disk as the weights.",
        shown="never",
        sets="train.snapshot_every",
    )
    track: list[str] | None = opt(
        "--track NAME",
        'Where else metrics and samples go, repeatable: tensorboard or wandb (`pip install "ditkit\\[wandb]"`).',
        complete=complete.trackers,
        shown=False,
    )
    fresh: bool = opt("--fresh", "Begin a new run (mnist-2) where there is one already.")
    dry_run: bool = opt("--dry-run", "Print the settings and the cost, and train nothing.")


@dataclass(frozen=True, kw_only=True)
class TrainDevice(NetworkDevice):
    """Machine: what computes, and how."""

    shard: bool = opt(
        "--shard",
        "Split weights, moments and their average over the processes that torchrun started (FSDP2), for models that "
        "one device cannot hold.",
    )
    threads: str = opt(
        "--threads N|auto",
        "Threads that compute on a CPU; auto: as many as cores are idle, looked at again at checkpoints.",
        default=AUTO,
        read=parsing.threads,
    )
    compile: str = opt(
        "--compile auto|on|off",
        "Compile the network: a minute at the start for faster steps; auto does if the run and --max-time pay it back.",
        default=AUTO,
        read=lambda word: parsing.switch("--compile", word),
    )
    grad_checkpointing: str = opt(
        "--grad-checkpointing auto|on|off",
        "Compute activations twice instead of keeping them; auto does when memory runs out otherwise.",
        default=AUTO,
        read=lambda word: parsing.switch("--grad-checkpointing", word),
    )
    preempt_signal: str | None = opt(
        "--preempt-signal NAME", "A signal beside TERM on which to save and end, such as USR1 from a job scheduler."
    )

    @property
    def signal(self) -> int | None:
        """The number of --preempt-signal. Raises UsageError."""
        from ..runtime.signals import preempt_signal

        return None if self.preempt_signal is None else preempt_signal(self.preempt_signal)
