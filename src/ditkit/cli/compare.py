"""`ditkit compare`: runs side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from . import complete, console
from .opt import examples, only, opt
from .options import Model, NetworkDevice, Output, SampleSettings
from .outputs import output_folder, show_result

FOLDER = opt("--out DIR", "Where the pictures and the table go.", shown="a new folder in comparisons/")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Which runs."""

    runs: list[str] | None = opt("RUN RUN...", "Runs by name or folder.", complete=complete.run_names, shown=False)


@examples("ditkit compare mnist mnist-2", "ditkit compare runs/* --labels 3 8 --out mine")
def run(
    which: Runs,
    settings: Annotated[SampleSettings, only("labels seed")],
    model: Annotated[Model, only("no_ema autoencoder")],
    output: Annotated[Output, only("out force json runs_dir quiet", out=FOLDER)],
    device: NetworkDevice,
) -> None:
    """Compare runs: losses, samples of equal seeds, figures, time, size, and the settings that differ."""
    from ..evaluation.compare import FILES, compare, several, table
    from ..io import text
    from ..runs.lookup import find_run
    from .datasets import watching
    from .sample_request import resolve_request

    folders = several([find_run(name, output.runs) for name in which.runs or []])
    requests = [resolve_request(settings, replace(model, model=str(run.path)), device, output.runs) for run in folders]
    stem = text.slug("-vs-".join(run.path.resolve().name for run in folders[:3]))
    folder = output_folder(output, Path("comparisons") / stem, list(FILES))
    console.hush_matplotlib()
    with watching(quiet=output.quiet):
        comparison = compare(
            [request.weights for request in requests],
            folder,
            labels=requests[0].labels if settings.labels else None,
            seed=requests[0].seed,
            ema=not model.no_ema,
            autoencoder=model.autoencoder,
            device=device.device,
            dtype=device.dtype,
            kernels=device.kernels,
            progress=console.watch(quiet=output.quiet),
        )
    show_result(output, {**comparison, "folder": str(folder)}, [*table(comparison), text.flat(str(folder))])
