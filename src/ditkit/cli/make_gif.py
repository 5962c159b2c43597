"""`ditkit make-gif`: the sample grids of a run over training, or one drawing from noise to image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import complete, console
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
    "Examples:\n\nditkit make-gif\nditkit make-gif train --model runs/mnist\nditkit make-gif denoise --labels 3 1 4"
)
KINDS = ("train", "denoise")
MOST_IMAGES = 100

What = Annotated[
    str | None,
    typer.Argument(
        metavar="[train|denoise|RUN]",
        autocompletion=complete.gif_words,
        show_default="train",
        help="train: the sample grids over training. denoise: one drawing, step by step. Or a run, to take its grids.",
    ),
]
WhichRun = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", autocompletion=complete.run_names, show_default="the newest run", help="The run."),
]
Kind = Annotated[
    str | None,
    typer.Option(
        "--kind",
        metavar="train|denoise",
        show_default="train",
        help="The same as the first word.",
        rich_help_panel=MODEL,
    ),
]
Seed = Annotated[
    str, typer.Option("--seed", metavar="N", help="Image i is drawn from seed N + i.", rich_help_panel=DIFFUSION)
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        show_default="progress.gif or denoise.gif in the run",
        help="Where the GIF goes.",
        rich_help_panel=OUTPUT,
    ),
]


def run(
    what: What = None,
    which: WhichRun = None,
    kind: Kind = None,
    model: Model = None,
    no_ema: RawWeights = False,
    labels: Labels = None,
    steps: SampleSteps = None,
    guidance: Guidance = None,
    sampler: Sampler = None,
    seed: Seed = "0",
    out: Out = None,
    force: Force = False,
    runs_dir: RunsDir = None,
    device: Device = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a GIF of training (the picture people share), or of denoising."""
    from ..errors import UsageError
    from ..paths import expanded
    from . import words

    kind, word = _understand(what, which, kind, model)
    if out:
        out = expanded(out)
        if out.suffix.lower() != ".gif" or out.is_dir():
            raise UsageError(f"--out: {out} is not the name of a GIF", "e.g. --out progress.gif")
        words.check_file(out, force=force)
    words.device(device)
    flags = {"--steps": steps, "--guidance": guidance, "--sampler": sampler}
    if kind == "train":
        given = [flag for flag, value in {**flags, "--labels": labels}.items() if value is not None]
        if given:
            raise UsageError(f"{given[0]} is for denoising", "say `ditkit make-gif denoise`")
        path = _training(word, runs_dir, out, quiet=quiet)
    else:
        flags |= {"--seed": seed}
        path = _denoising(word, runs_dir, out, labels=labels, flags=flags, ema=not no_ema, device=device, quiet=quiet)
    if not quiet:
        console.data(str(path))


def _understand(what: str | None, which: str | None, kind: str | None, model: str | None) -> tuple[str, str | None]:
    """(kind, run): the first word is a kind, or a run when --kind or nothing says the kind."""
    from ..errors import UsageError, unknown

    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    named = [word for word in (what, which, model) if word is not None]
    if kind is None and what in KINDS:
        kind, named = what, named[1:]
    elif kind is not None and what == kind and len(named) > 1:
        named = named[1:]
    if len(named) > 1:
        raise UsageError(
            f"{' and '.join(named)} are two runs, or {named[0]!r} is meant as a kind", "known kinds: train, denoise"
        )
    return kind or "train", named[0] if named else None


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
        from PIL import Image

        from ..gifs import MOST_FRAMES, thinned, training_gif

        frames: list[tuple[str, Image.Image]] = []
        for index in thinned(len(grids), MOST_FRAMES):
            step, file = grids[index]
            with Image.open(file) as picture:
                frames.append((f"step {step:,}", picture.convert("RGB")))
        training_gif(frames, path)
    return path


def _denoising(
    word: str | None,
    runs_dir: Path | None,
    out: Path | None,
    *,
    labels: list[str] | None,
    flags: dict[str, Any],
    ema: bool,
    device: str,
    quiet: bool,
) -> Path:
    from dataclasses import replace

    from ..errors import UsageError
    from . import words
    from .order import columns, draw, read_order

    order = read_order(labels, flags, model=word, runs_dir=runs_dir, ema=ema)
    if labels and len(order.labels) > MOST_IMAGES:
        raise UsageError(f"--labels asks for more than {MOST_IMAGES} images, too many for a GIF", "ask for fewer")
    wanted = order.labels[:MOST_IMAGES] if labels else order.labels[:10]
    order = replace(order, labels=wanted, batch_size=len(wanted))
    run_folder = order.weights.parent.parent.parent
    inside_run = (run_folder / "config.toml").is_file()
    path = out or (run_folder / "denoise.gif" if inside_run else words.free_name(Path("denoise"), ".gif"))
    words.check_writable(path.parent)
    across, captions = columns(wanted), wanted if order.card.labels else None
    frames: list[tuple[str, Image.Image]] = []
    calls = 0

    def keep(step: int, steps: int, x_BCHW: Any) -> None:
        from ..gifs import MOST_FRAMES, thinned
        from ..images import grid, to_uint8

        nonlocal calls
        calls = steps
        if step not in thinned(steps, MOST_FRAMES - 1):  # ten thousand pictures would not fit into memory
            return
        picture = grid(to_uint8(x_BCHW), across, captions=captions)
        frames.append((f"step {step} of {steps}", picture))

    final = list(draw(order, device, quiet=quiet, on_noisy=keep))
    from ..gifs import denoising_gif
    from ..images import grid

    frames.append((f"step {calls} of {calls}", grid([one.image for one in final], across, captions=captions)))
    denoising_gif(frames, path)
    return path
