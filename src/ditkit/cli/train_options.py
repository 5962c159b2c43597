"""Options of `ditkit train` alone. Numbers stay words here: RunConfig reads them."""

from __future__ import annotations

from typing import Annotated

import typer

from . import complete
from .annotated import MACHINE, MODEL, OPTIMISER, OUTPUT

RECIPES = "the recipe's"

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE|DATASET|FOLDER|ARCHIVE|URL|hf://…",
        autocompletion=complete.training_targets,
        show_default=False,
        help="A recipe or data set by name (`ditkit list`), a folder with one subfolder of images per label, an "
        "archive of one or its web address, hf://user/dataset, or a run to continue.",
    ),
]
Steps = Annotated[
    str | None,
    typer.Option(
        "--steps", metavar="N", show_default=RECIPES, help="Train until this step.", rich_help_panel=OPTIMISER
    ),
]
MaxTime = Annotated[
    str | None,
    typer.Option(
        "--max-time",
        metavar="TIME",
        show_default="no limit",
        help="Stop and save after 90s, 10m or 1h30m; the same command continues.",
        rich_help_panel=OPTIMISER,
    ),
]
BatchSize = Annotated[
    str | None,
    typer.Option(
        "--batch-size",
        metavar="N|auto",
        show_default=RECIPES,
        help="Images in a step; auto keeps the recipe's, in as many parts as memory asks for.",
        rich_help_panel=OPTIMISER,
    ),
]
Lr = Annotated[
    str | None,
    typer.Option(
        "--lr",
        metavar="RATE|auto",
        show_default=RECIPES,
        help="Peak learning rate of AdamW; auto measures one first, as `ditkit lr-find` does.",
        rich_help_panel=OPTIMISER,
    ),
]
InitFrom = Annotated[
    str | None,
    typer.Option(
        "--init-from",
        metavar="RUN|CHECKPOINT|FILE",
        autocompletion=complete.run_names,
        help="Begin a new run with the averaged weights of this model, which brings its architecture and objective.",
        rich_help_panel=MODEL,
    ),
]
SampleEvery = Annotated[
    int | None,
    typer.Option(
        "--sample-every", metavar="N", show_default=RECIPES, help="Steps between sample grids.", rich_help_panel=OUTPUT
    ),
]
Seed = Annotated[
    str | None,
    typer.Option(
        "--seed", metavar="N", show_default=RECIPES, help="All randomness comes from it.", rich_help_panel=OPTIMISER
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="auto, float32 or bfloat16; auto is bfloat16 on CUDA that computes in it; products of float32 are TF32.",
        rich_help_panel=MACHINE,
    ),
]
Threads = Annotated[
    str,
    typer.Option(
        "--threads",
        metavar="N|auto",
        help="Threads that compute on a CPU; auto takes as many as there are idle cores when the run begins.",
        rich_help_panel=MACHINE,
    ),
]
Compile = Annotated[
    str,
    typer.Option(
        "--compile",
        metavar="auto|on|off",
        help="Compile the network: a minute at the start for faster steps; auto does where a long run pays it back.",
        rich_help_panel=MACHINE,
    ),
]
GradCheckpointing = Annotated[
    str,
    typer.Option(
        "--grad-checkpointing",
        metavar="auto|on|off",
        help="Compute activations twice instead of keeping them; auto does when memory runs out otherwise.",
        rich_help_panel=MACHINE,
    ),
]
Shard = Annotated[
    bool,
    typer.Option(
        "--shard",
        help="Split weights, moments and their average over the processes that torchrun started (FSDP2), for models "
        "that one device cannot hold.",
        rich_help_panel=MACHINE,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name", metavar="NAME", show_default="the target's", help="Name of the run.", rich_help_panel=OUTPUT
    ),
]
EvaluateEvery = Annotated[
    str | None,
    typer.Option(
        "--evaluate-every",
        metavar="N",
        show_default="never",
        help="Steps between measurements of the KID of train.evaluate_samples (256) images against the real ones.",
        rich_help_panel=OUTPUT,
    ),
]
KeepEvery = Annotated[
    str | None,
    typer.Option(
        "--keep-every",
        metavar="N",
        show_default="no others",
        help="Save a checkpoint at every N-th step and keep it, beside the last two and the best.",
        rich_help_panel=OUTPUT,
    ),
]
SnapshotEvery = Annotated[
    str | None,
    typer.Option(
        "--snapshot-every",
        metavar="N",
        show_default="never",
        help="Steps between snapshots of two averages of the weights: `sample --ema 0.05` makes one of any length of "
        "them after training. 30 to 100 in a run are enough; each takes as much disk as the weights.",
        rich_help_panel=OUTPUT,
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME",
        autocompletion=complete.trackers,
        show_default=False,
        help="Where else metrics and samples go, repeatable: tensorboard or wandb (`pip install 'ditkit\\[wandb]'`).",
        rich_help_panel=OUTPUT,
    ),
]
PreemptSignal = Annotated[
    str | None,
    typer.Option(
        "--preempt-signal",
        metavar="NAME",
        help="A signal beside TERM on which to save and end, such as USR1 from a job scheduler.",
        rich_help_panel=MACHINE,
    ),
]
ForceChange = Annotated[
    list[str] | None,
    typer.Option(
        "--force-change",
        metavar="KEY",
        show_default=False,
        help="Continue a run although this setting is another now: optim.lr, train.batch_size …; images for the files.",
        rich_help_panel=OPTIMISER,
    ),
]
Fresh = Annotated[
    bool,
    typer.Option("--fresh", help="Begin a new run (mnist-2) where there is one already.", rich_help_panel=OUTPUT),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the settings and the cost, and train nothing.", rich_help_panel=OUTPUT)
]
