"""Options as Annotated parameters, for the commands that do not take groups of options.py yet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import complete

SETTINGS, DATA, OPTIMISER, DIFFUSION = "Model, diffusion and all other settings", "Data", "Optimiser", "Diffusion"
MODEL, OUTPUT, MACHINE, OTHER = "Model", "Output", "Machine", "Other"

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings from a TOML file, such as `ditkit show` prints.",
        rich_help_panel=SETTINGS,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        show_default=False,
        help="Any setting, repeatable: --set model.preset=dit-s/4, --set model.conditioning=cross-attention, "
        "--set diffusion.objective=v. `ditkit show mnist` prints them all. Wins over flags and files.",
        rich_help_panel=SETTINGS,
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir",
        metavar="PLACE",
        help="Where the images are: a folder, an archive of one, or the archive's web address.",
        rich_help_panel=DATA,
    ),
]
LabelBy = Annotated[
    str | None,
    typer.Option(
        "--label-by",
        metavar="NAME[,NAME]",
        show_default="the data's own",
        help="What gives the labels: attributes of CelebA (Male, or Male,Smiling), or the column of a table.",
        rich_help_panel=DATA,
    ),
]
LabelFile = Annotated[
    str | None,
    typer.Option(
        "--label-file",
        metavar="FILE",
        help="A .csv or .jsonl with the images' file names and labels, instead of one subfolder per label.",
        rich_help_panel=DATA,
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        metavar="N|HxW",
        show_default="the recipe's",
        help="Pixels of the images to learn, 64 or height x width: 96x64.",
        rich_help_panel=DATA,
    ),
]
Autoencoder = Annotated[
    str | None,
    typer.Option(
        "--autoencoder",
        metavar="NAME|FOLDER|HUB-ID",
        autocompletion=complete.autoencoders,
        show_default="the recipe's",
        help="Learn the latents of this autoencoder instead of pixels: taesd3, sd-vae-ft-mse …, a folder in diffusers' "
        "layout, a hub repository (user/name), or pixel for none.",
        rich_help_panel=MODEL,
    ),
]
RunsDir = Annotated[
    Path | None,
    typer.Option(
        "--runs-dir",
        metavar="DIR",
        show_default="DITKIT_RUNS, else ./runs",
        help="Where runs live.",
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.", rich_help_panel=OUTPUT)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.", rich_help_panel=OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.", rich_help_panel=OUTPUT)]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        autocompletion=complete.devices,
        help="auto, cpu, cuda, cuda:1 or mps; auto takes the best there is.",
        rich_help_panel=MACHINE,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="RUN|CHECKPOINT|FILE|hf://USER/NAME",
        autocompletion=complete.run_names,
        show_default="the newest run",
        help="What draws: a run by name or folder, a checkpoint folder, a .safetensors file, or a model on the hub, "
        "perhaps with @revision.",
        rich_help_panel=MODEL,
    ),
]
RawWeights = Annotated[
    bool,
    typer.Option("--no-ema", help="Use the raw weights instead of their moving average.", rich_help_panel=MODEL),
]
EmaLength = Annotated[
    str | None,
    typer.Option(
        "--ema",
        metavar="LENGTH",
        show_default="the one tracked in training",
        help="Make a moving average of this length, in units of the training: 0.05 is about the last tenth. For runs "
        "trained with --snapshot-every.",
        rich_help_panel=MODEL,
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        metavar="LABEL...",
        show_default="one of each",
        help="What to draw, one image a label: --labels cat dog cat, --labels cat,dog or --labels 'cat*4'.",
        rich_help_panel=DIFFUSION,
    ),
]
SampleSteps = Annotated[
    str | None,
    typer.Option("--steps", metavar="N", show_default="as trained", help="Sampling steps.", rich_help_panel=DIFFUSION),
]
Guidance = Annotated[
    str | None,
    typer.Option(
        "--guidance",
        metavar="SCALE",
        show_default="as trained",
        help="Classifier-free guidance; 1 is none, more follows the label more closely.",
        rich_help_panel=DIFFUSION,
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        metavar="NAME",
        autocompletion=complete.samplers,
        show_default="as trained",
        help="How noise becomes an image; `ditkit list samplers` names them.",
        rich_help_panel=DIFFUSION,
    ),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show tracebacks, as DITKIT_DEBUG=1 does.", rich_help_panel=OTHER),
]

Autoguide = Annotated[
    str | None,
    typer.Option(
        "--autoguide",
        metavar="[RUN]@STEP|MODEL",
        autocompletion=complete.run_names,
        show_default="none",
        help="Guide away from what a worse model draws instead of from no label: an early checkpoint (@1000 for one of "
        "the same run, which `train --keep-every` keeps), or a smaller model.",
        rich_help_panel=DIFFUSION,
    ),
]
Seed = Annotated[
    str, typer.Option("--seed", metavar="N", help="Image i is drawn from seed N + i.", rich_help_panel=DIFFUSION)
]
BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size",
        metavar="N",
        help="Images drawn at once, as many as memory suits if auto; changes no image.",
        rich_help_panel=MACHINE,
    ),
]
MovedAutoencoder = Annotated[
    Path | None,
    typer.Option(
        "--autoencoder",
        metavar="FOLDER",
        show_default="where it was in training",
        help="Where the autoencoder of a model of latents lies now, should it have moved.",
        rich_help_panel=MODEL,
    ),
]
Which = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN|MODEL]",
        autocompletion=complete.run_names,
        show_default="the newest run",
        help="A run by name or folder, a checkpoint folder, a .safetensors file, or hf://user/name.",
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="NAME|FILE",
        show_default="lenet for one channel, inception for three",
        help="Who looks at the images: lenet (in the package), inception (`pip install 'ditkit\\[evaluate]'`), dinov2 "
        "(`pip install 'ditkit\\[dinov2]'`), or a .onnx file of float32 (batch, channels, height, width) in [-1, 1].",
        rich_help_panel=DATA,
    ),
]
