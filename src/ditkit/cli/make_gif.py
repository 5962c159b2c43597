"""`ditkit make-gif`: training, denoising, or the way from one image to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from . import complete, console
from .opt import examples, only, opt
from .options import Model, NetworkDevice, Output, SampleSettings
from .outputs import check_suffix

KINDS = ("train", "denoise", "interpolate", "compare")


@dataclass(frozen=True, kw_only=True)
class What(Model):
    """Model: what is shown."""

    what: str | None = opt(
        "[train|denoise|interpolate|compare|RUN]",
        "train: the sample grids over training. denoise: one drawing, step by step. interpolate: from one image to the "
        "next, through noise and labels. compare: the grids of several runs. Or a run, to take its grids.",
        complete=complete.gif_words,
        shown="train",
    )
    which: list[str] | None = opt(
        "[RUN...]", "The run; several to compare.", complete=complete.run_names, shown="the newest run"
    )
    kind: str | None = opt(f"--kind {'|'.join(KINDS)}", "The same as the first word.", shown="train")


@dataclass(frozen=True, kw_only=True)
class GifOutput(Output):
    """Output."""

    frames: int | None = opt(
        "--frames N", "Of interpolate: images from each label to the next.", shown="16", min=2, max=60
    )


FILE = opt(
    "--out FILE", "Where the GIF goes.", shown="progress.gif, denoise.gif, interpolate.gif in the run; ./compare.gif"
)


@examples(
    "ditkit make-gif",
    "ditkit make-gif train --model runs/mnist",
    "ditkit make-gif denoise --labels 3 1 4",
    "ditkit make-gif interpolate --labels 3 8 0",
)
def run(
    what: Annotated[What, only("what which kind model no_ema autoencoder")],
    settings: Annotated[SampleSettings, only("labels steps guidance sampler seed")],
    output: Annotated[GifOutput, only("frames out force runs_dir quiet", out=FILE)],
    device: NetworkDevice,
) -> None:
    """Make a GIF of training (the picture people share), of denoising, or of the way from one image to the next."""
    from ..errors import UsageError
    from ..sampling.animate import FRAMES, animate
    from .datasets import watching
    from .sample_request import resolve_request

    kind, runs = _understand(what)
    out = check_suffix(output.out, "a GIF", "progress.gif", force=output.force) if output.out else None
    if output.frames is not None and kind != "interpolate":
        raise UsageError("--frames is for interpolating", "say `ditkit make-gif interpolate`")
    progress = console.watch(quiet=output.quiet)
    if kind in ("train", "compare"):
        for name in ("steps", "guidance", "sampler", "labels", "autoencoder"):
            if getattr(what if name == "autoencoder" else settings, name) is not None:
                raise UsageError(f"--{name} is for drawing", "say `ditkit make-gif denoise`, or interpolate")
        path = animate(_find_runs(kind, runs, output.runs), out, kind=kind, progress=progress)
    else:
        with watching(quiet=output.quiet):
            model = replace(what, model=runs[0] if runs else None)
            request = resolve_request(settings, model, device, output.runs)
            path = animate(
                request.weights,
                out,
                kind=kind,
                labels=request.labels if settings.labels else None,
                settings=request.settings,
                seed=request.seed,
                frames=output.frames or FRAMES,
                ema=not what.no_ema,
                autoencoder=what.autoencoder,
                device=device.device,
                dtype=device.dtype,
                kernels=device.kernels,
                progress=progress,
            )
    if not output.quiet:
        console.data(str(path))


def _find_runs(kind: str, words: list[str], runs: Path) -> list[Path]:
    """The folders of the runs, the newest where none is named; a word that is no run may be a mistyped kind."""
    from ..errors import UsageError, unknown
    from ..runs.lookup import find_run, run_names

    try:
        return [find_run(word, runs).path for word in words or [None]]
    except UsageError:
        if kind != "train" or not words:
            raise
        raise unknown("run", words[0], (*KINDS, *run_names(runs))) from None


def _understand(what: What) -> tuple[str, list[str]]:
    """(kind, runs): the first word is a kind, or a run when --kind or nothing says the kind."""
    from ..errors import UsageError, unknown

    kind = what.kind
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    named = [word for word in (what.what, *(what.which or []), what.model) if word is not None]
    if kind is None and what.what in KINDS:
        kind, named = what.what, named[1:]
    elif kind is not None and what.what == kind and len(named) > 1:
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
