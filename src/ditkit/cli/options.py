"""The groups of options that commands share, each option declared once; opt.py says how a command takes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import complete, parsing
from .opt import opt

DATA, DIFFUSION, MODEL, OUTPUT, MACHINE = "Data", "Diffusion", "Model", "Output", "Machine"  # panels
RECIPES, AS_TRAINED = "the recipe's", "as trained"
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Model, diffusion and all other settings."""

    config: Path | None = opt("--config FILE", "Settings from a TOML file, such as `ditkit show` prints.")
    settings: list[str] | None = opt(
        "--set KEY=VALUE",
        "Any setting, repeatable: --set model.preset=dit-s/4, --set model.conditioning=cross-attention, --set "
        "diffusion.objective=v. `ditkit show mnist` prints them all. Wins over flags and files.",
        shown=False,
    )


@dataclass(frozen=True, kw_only=True)
class Data:
    """Data: which images, and what is learnt of them."""

    data_dir: str | None = opt(
        "--data-dir PLACE",
        "Where the images are: a folder, an archive of one, or the archive's web address.",
        sets="data.path",
    )
    label_by: str | None = opt(
        "--label-by NAME[,NAME]",
        "What gives the labels: attributes of CelebA (Male, or Male,Smiling), or the column of a table.",
        shown="the data's own",
        sets="data.label_by",
    )
    label_file: str | None = opt(
        "--label-file FILE",
        "A .csv, .tsv, .jsonl or .json with the images' file names and labels, instead of one subfolder per label.",
        sets="data.label_file",
    )
    label_from: str | None = opt(
        "--label-from EXPRESSION",
        r"A label in each file's name: the first group of a regular expression, '(.*)_\d+' for cat_01.jpg. Or folders: "
        "the outer ones, whatever they are called; or none: no labels.",
        shown=False,
        sets="data.label_from",
    )
    image_size: str | None = opt(
        "--image-size N|HxW",
        "Pixels of the images to learn, 64 or height x width: 96x64.",
        shown=RECIPES,
        sets="data.image_size",
    )


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Model: whose latents are learnt."""

    autoencoder: str | None = opt(
        "--autoencoder NAME|FOLDER|HUB-ID",
        "Learn the latents of this autoencoder instead of pixels: taesd3, sd-vae-ft-mse …, a folder in diffusers' "
        "layout, a hub repository (user/name), or pixel for none.",
        complete=complete.autoencoders,
        shown=RECIPES,
        sets="autoencoder",
    )


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Diffusion: what is drawn, and how."""

    labels: list[str] | None = opt(
        "--labels LABEL...",
        'What to draw, one image a label: --labels cat dog cat, --labels cat,dog or --labels "cat*4"; or numbers of '
        "classes (207), where no label is one.",
        shown="one of each",
    )
    steps: str | None = opt("--steps N", "Sampling steps.", shown=AS_TRAINED, sets="sample.steps")
    guidance: str | None = opt(
        "--guidance SCALE",
        "Classifier-free guidance; 1 is none, more follows the label more closely.",
        shown=AS_TRAINED,
        sets="sample.guidance",
    )
    guidance_interval: tuple[str, str] | None = opt(
        "--guidance-interval FROM TO",
        "Guide only where the noise level lies between these parts (0 to 1) of its range.",
        shown=AS_TRAINED,
        sets=("sample.guidance_from", "sample.guidance_to"),
    )
    guidance_rescale: str | None = opt(
        "--guidance-rescale PART",
        "Of strong guidance: keep the contrast that images have without it, 0 not at all, 1 wholly; 0.7 is usual.",
        shown=AS_TRAINED,
        sets="sample.guidance_rescale",
    )
    apg: bool | None = opt(
        "--apg",
        "Adaptive projected guidance: guide at right angles to the image, which does not saturate.",
        shown=AS_TRAINED,
        sets="sample.apg",
    )
    sampler: str | None = opt(
        "--sampler NAME",
        "How noise becomes an image; `ditkit list samplers` names them.",
        complete=complete.samplers,
        shown=AS_TRAINED,
        sets="sample.sampler",
    )
    reuse: str | None = opt(
        "--reuse N",
        "Go through the network's blocks in every N-th call only: about N times as fast, not quite as good.",
        shown="as trained, 1 being none",
        sets="sample.reuse",
    )
    autoguide: str | None = opt(
        "--autoguide [RUN]@STEP|MODEL",
        "Guide away from what a worse model draws instead of from no label: an early checkpoint (@1000 for one of the "
        "same run, which `train --keep-every` keeps), or a smaller model.",
        complete=complete.run_names,
        shown="none",
    )
    seed: str = opt("--seed N", "Image i is drawn from seed N + i.", default="0", sets="seed")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Model: the weights that draw."""

    model: str | None = opt(
        "--model RUN|CHECKPOINT|FILE|HUB-ID",
        "What draws: a run by name or folder, a checkpoint folder, a .safetensors file, or a model of ditkit's on the "
        "hub: user/name or hf://user/name, perhaps with @revision.",
        complete=complete.run_names,
        shown="the newest run",
    )
    autoencoder: str | None = opt(
        "--autoencoder FOLDER|NAME|HUB-ID",
        "Where the autoencoder of a model of latents lies now, if it has moved, or another of the same latents: "
        "sd-vae-ft-mse …",
        complete=complete.autoencoders,
        shown="where it was in training",
    )
    ema: str | None = opt(
        "--ema LENGTH",
        "Make a moving average of this length, in units of the training: 0.05 is about the last tenth. For runs "
        "trained with --snapshot-every.",
        shown="the one tracked in training",
    )
    no_ema: bool = opt("--no-ema", "Use the raw weights instead of their moving average.")


@dataclass(frozen=True, kw_only=True)
class Output:
    """Output: where results go, and what is printed of them."""

    out: Path | None = opt("--out DIR", "Where images go.", shown="a new folder in samples/")
    force: bool = opt("--force", "Overwrite what is there.")
    npz: Path | None = opt(
        "--npz FILE",
        "Write all images into one file, too, as guided-diffusion's evaluator and others read it: arr_0 uint8 "
        "(N, H, W, 3), arr_1 label ids.",
        shown="none",
    )
    yes: bool = opt("--yes", "Do not ask.")
    json: bool = opt("--json", "Print one JSON object on stdout.")
    runs_dir: Path | None = opt("--runs-dir DIR", "Where runs live.", shown="DITKIT_RUNS, else ./runs")
    quiet: bool = opt("--quiet", "Say nothing but errors.")

    @property
    def runs(self) -> Path:
        """The folder of runs."""
        from ..runs.folder import runs_dir

        return runs_dir(self.runs_dir)


@dataclass(frozen=True, kw_only=True)
class Device:
    """Machine: what computes."""

    device: str = opt(
        "--device NAME",
        "auto, cpu, cuda, cuda:1 or mps; auto takes the best there is.",
        default=AUTO,
        complete=complete.words("auto", "cpu", "cuda", "mps"),
        read=parsing.device,
    )


@dataclass(frozen=True, kw_only=True)
class NetworkDevice(Device):
    """Machine: what computes a network, and how."""

    dtype: str = opt(
        "--dtype NAME",
        "Of matrix products: float32 (on CUDA as TF32), bfloat16, or auto: bfloat16 to train on CUDA that computes in "
        "it, and on a CPU where it is faster.",
        default=AUTO,
        read=lambda word: parsing.choice("dtype", word, parsing.DTYPES),
    )
    kernels: str = opt(
        "--kernels auto|on|off",
        "Compute on a CPU by ditkit's kernels in C; auto does where a check finds them right and faster than torch.",
        default=AUTO,
        read=lambda word: parsing.switch("--kernels", word),
    )


@dataclass(frozen=True, kw_only=True)
class DrawingDevice(NetworkDevice):
    """Machine: what computes, and how much at once."""

    backend: str = opt(
        "--backend NAME",
        'What computes, torch or jax (`pip install "ditkit\\[jax]"`): the same images, up to rounding.',
        default="torch",
        complete=complete.backends,
    )
    batch_size: str = opt(
        "--batch-size N",
        "Images drawn at once, as many as memory suits if auto; changes no image.",
        default=AUTO,
        sets="train.batch_size",
        unless=AUTO,
    )
