"""`ditkit make-gif`: the sample grids of a run over training, or one drawing from noise to image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import complete, console
from .gif_drawings import FRAMES, Drawing
from .options import (
    DIFFUSION,
    MODEL,
    OUTPUT,
    Debug,
    Device,
    Force,
    Guidance,
    Labels,
    Model,
    Quiet,
    RawWeights,
    RunsDir,
    Sampler,
    SampleSteps,
)

if TYPE_CHECKING:
    from PIL import Image

EXAMPLES = (
    "Examples:\n\nditkit make-gif\nditkit make-gif train --model runs/mnist\nditkit make-gif denoise --labels 3 1 4\n"
    "ditkit make-gif interpolate --labels 3 8 0"
)
KINDS = ("train", "denoise", "interpolate", "compare")

What = Annotated[
    str | None,
    typer.Argument(
        metavar="[train|denoise|interpolate|compare|RUN]",
        autocompletion=complete.gif_words,
        show_default="train",
        help="train: the sample grids over training. denoise: one drawing, step by step. interpolate: from one image "
        "to the next, through noise and labels. compare: the grids of several runs. Or a run, to take its grids.",
    ),
]
WhichRuns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN...]",
        autocompletion=complete.run_names,
        show_default="the newest run",
        help="The run; several to compare.",
    ),
]
Kind = Annotated[
    str | None,
    typer.Option(
        "--kind",
        metavar="train|denoise|interpolate|compare",
        show_default="train",
        help="The same as the first word.",
        rich_help_panel=MODEL,
    ),
]
Seed = Annotated[
    str, typer.Option("--seed", metavar="N", help="Image i is drawn from seed N + i.", rich_help_panel=DIFFUSION)
]
Frames = Annotated[
    int | None,
    typer.Option(
        "--frames",
        metavar="N",
        min=2,
        max=60,
        show_default="16",
        help="Of interpolate: images from each label to the next.",
        rich_help_panel=OUTPUT,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        show_default="progress.gif, denoise.gif, interpolate.gif in the run; ./compare.gif",
        help="Where the GIF goes.",
        rich_help_panel=OUTPUT,
    ),
]


def run(
    what: What = None,
    which: WhichRuns = None,
    kind: Kind = None,
    model: Model = None,
    no_ema: RawWeights = False,
    labels: Labels = None,
    steps: SampleSteps = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    seed: Seed = "0",
    frames: Frames = None,
    out: Out = None,
    force: Force = False,
    runs_dir: RunsDir = None,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a GIF of training (the picture people share), of denoising, or of the way from one image to the next."""
    from ..errors import UsageError
    from ..paths import expanded
    from . import words

    kind, runs = _understand(what, which or [], kind, model)
    word = runs[0] if runs else None
    if out:
        out = expanded(out)
        if out.suffix.lower() != ".gif" or out.is_dir():
            raise UsageError(f"--out: {out} is not the name of a GIF", "e.g. --out progress.gif")
        words.check_file(out, force=force)
    words.device(device)
    flags = {"--steps": steps, "--guidance": guidance, "--sampler": sampler}
    if frames is not None and kind != "interpolate":
        raise UsageError("--frames is for interpolating", "say `ditkit make-gif interpolate`")
    if kind in ("train", "compare"):
        given = [flag for flag, value in {**flags, "--labels": labels}.items() if value is not None]
        if given:
            raise UsageError(f"{given[0]} is for drawing", "say `ditkit make-gif denoise`, or interpolate")
        path = _training(word, runs_dir, out, quiet=quiet) if kind == "train" else _comparing(runs, runs_dir, out)
    else:
        flags |= {"--seed": seed}
        drawing = Drawing(
            word=word,
            runs_dir=runs_dir,
            out=out,
            labels=labels,
            flags=flags,
            ema=not no_ema,
            device=device,
            quiet=quiet,
        )
        path = drawing.denoising() if kind == "denoise" else drawing.interpolating(frames or FRAMES)
    if not quiet:
        console.data(str(path))


def _understand(what: str | None, which: list[str], kind: str | None, model: str | None) -> tuple[str, list[str]]:
    """(kind, runs): the first word is a kind, or a run when --kind or nothing says the kind."""
    from ..errors import UsageError, unknown

    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    named = [word for word in (what, *which, model) if word is not None]
    if kind is None and what in KINDS:
        kind, named = what, named[1:]
    elif kind is not None and what == kind and len(named) > 1:
        named = named[1:]
    if kind == "compare":
        if len(set(named)) < 2:
            raise UsageError("comparing takes two runs or more", "e.g. `ditkit make-gif compare mnist mnist-2`")
    elif len(named) > 1:
        raise UsageError(
            f"{' and '.join(named)} are two runs, or {named[0]!r} is meant as a kind",
            f"known kinds: {', '.join(KINDS)}",
        )
    return kind or "train", list(dict.fromkeys(named))


def _training(word: str | None, runs_dir: Path | None, out: Path | None, *, quiet: bool) -> Path:
    from ..errors import DataError, UsageError, unknown
    from ..run_folder import find_run, run_names
    from ..run_folder import runs_dir as runs_place

    runs = runs_place(runs_dir)
    try:
        folder = find_run(word, runs)
    except UsageError:
        if word is None:
            raise
        raise unknown("run", str(word), (*KINDS, *run_names(runs))) from None
    grids = folder.sample_grids()
    if not grids:
        raise DataError(f"{folder.path} has no sample grids yet", "train it longer, or lower --set train.sample_every")
    path = out or folder.path / "progress.gif"
    with console.spinner("drawing …", quiet=quiet):
        from ..gifs import MOST_FRAMES, thinned, training_gif

        frames: list[tuple[str, Image.Image]] = []
        for index in thinned(len(grids), MOST_FRAMES):
            step, file = grids[index]
            frames.append((f"step {step:,}", _opened(file)))
        training_gif(frames, path)
    return path


def _comparing(names: list[str], runs_dir: Path | None, out: Path | None) -> Path:
    """The grids of several runs in a row, at each step the newest that a run has."""
    from ..errors import DataError
    from ..run_folder import find_run
    from ..run_folder import runs_dir as runs_place
    from . import words

    folders = [find_run(name, runs_place(runs_dir)) for name in names]
    grids = [folder.sample_grids() for folder in folders]
    for folder, found in zip(folders, grids, strict=True):
        if not found:
            raise DataError(f"{folder.path} has no sample grids yet", "train it, or lower --set train.sample_every")
    path = out or words.free_name(Path("compare"), ".gif")
    words.check_writable(path.parent)

    from ..gifs import MOST_FRAMES, thinned, training_gif
    from ..images import in_a_row

    steps = sorted({step for found in grids for step, _ in found})
    steps = [step for step in steps if step >= max(found[0][0] for found in grids)]  # every run has one from here on
    names = [folder.path.resolve().name for folder in folders]
    frames: list[tuple[str, Image.Image]] = []
    for index in thinned(len(steps), MOST_FRAMES):
        newest = [[one for one in found if one[0] <= steps[index]][-1] for found in grids]
        titles = [
            name if step == steps[index] else f"{name}, step {step:,}"
            for name, (step, _) in zip(names, newest, strict=True)
        ]
        frames.append((f"step {steps[index]:,}", in_a_row([_opened(file) for _, file in newest], titles)))
    training_gif(frames, path)
    return path


def _opened(grid: Path) -> Image.Image:
    """A grid that a run has drawn. Raises DataError for one that is damaged."""
    from PIL import Image

    from ..errors import DataError

    try:
        with Image.open(grid) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError):
        raise DataError(f"{grid} is damaged", "delete it: the GIF is made of the others") from None
