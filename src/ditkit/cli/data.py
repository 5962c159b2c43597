"""Look at images before training on them, and at what ditkit keeps of them on disk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..io import text
from . import complete, console, tables
from .opt import examples, only, opt
from .options import Data, Device, Latents, Output, Settings
from .outputs import png_path, show_result

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..data.contract import Dataset, Split
    from ..io.cache import Entry
    from ..latents.codec import Reconstruction


EXAMPLES = "Examples:\n\nditkit data show ./photos\nditkit data list\nditkit data remove --unfinished"
OUTPUT_OPTIONS = "runs_dir out force json quiet"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to look at."""

    target: str | None = opt(
        "[DATASET|RECIPE|FOLDER|RUN]",
        "What would be trained on: as for `ditkit train`.",
        complete=complete.training_targets,
        shown=False,
    )


@dataclass(frozen=True, kw_only=True)
class Examined(Data):
    """Data."""

    limit: int | None = opt(
        "--limit N", "Images to examine, in even steps through the set.", shown="all", min=1, max=10**9
    )


SHEET = opt("--out FILE", "Where the picture goes.", shown="data-NAME.png")


@examples(
    "ditkit data show mnist",
    "ditkit data show ./photos --image-size 96x64 --set data.crop=top",
    "ditkit data show celeba --data-dir ~/celeba --limit 2000",
)
def show(
    target: Target,
    data: Examined,
    settings: Settings,
    output: Annotated[Output, only(OUTPUT_OPTIONS, out=SHEET)],
) -> None:
    """Look at a data set before training on it: counts, sizes, duplicates, unreadable images, and a picture.

    The picture shows of each label some images, what is cut off of them, and what the network will see.
    """
    from ..data import survey_report
    from ..data.survey import survey
    from ..errors import UsageError
    from .datasets import resolve_settings

    if target.target is None and settings.config is None:
        raise UsageError(
            "missing argument: what to show", "try `ditkit data show mnist`, or name a data set or a folder of images"
        )
    config, name = resolve_settings(target.target, settings, output, data)
    path = png_path(output.out, f"data-{text.slug(name)}", force=output.force)
    parts = _open(config, quiet=output.quiet)
    with console.bar("looking at the images", quiet=output.quiet) as on_progress:
        result = survey(config.data, parts, limit=data.limit, on_progress=on_progress)
    from ..visual.dataset_sheet import save_sheet

    picture = path if save_sheet(result, config, name, path) else None
    lines = survey_report.lines(result, config, name)
    if picture:
        lines = [*lines, f"picture: {text.flat(str(picture))}"]
    show_result(output, survey_report.as_json(result, config, name, picture), lines)
    for warning in survey_report.warnings(result, config):
        console.say(warning, quiet=output.quiet)


def _open(config: RunConfig, *, quiet: bool) -> dict[Split, Dataset]:
    from ..data.contract import open_dataset
    from ..errors import DataError
    from .datasets import open_images

    train = open_images(config, quiet=quiet)
    parts: dict[Split, Dataset] = {"train": train, "validation": open_dataset(config.data, "validation")}
    if not any(map(len, parts.values())):
        raise DataError("the data set has no images", "check its folder")
    return parts


@dataclass(frozen=True, kw_only=True)
class Reconstructed(Data):
    """Data."""

    count: int = opt("--count N", "Images to encode and decode.", default=16, min=1, max=10_000)


PAIRS = opt("--out FILE", "Where the picture goes.", shown="reconstruct-NAME.png")


@examples(
    "ditkit data reconstruct ./photos --autoencoder taesd3 --image-size 128",
    "ditkit data reconstruct celeba-latent --data-dir ~/celeba",
)
def reconstruct(
    target: Target,
    data: Annotated[Reconstructed, only("data_dir label_file image_size count")],
    latents: Latents,
    settings: Settings,
    output: Annotated[Output, only(OUTPUT_OPTIONS, out=PAIRS)],
    device: Device,
) -> None:
    """See what an autoencoder loses: originals beside what comes back from their latents, with the PSNR of each.

    Nothing that is lost here can a model of these latents ever draw. 25 dB is blurred, 30 dB is good, more is better.
    """
    from ..autoencoders.files import PIXEL
    from ..errors import UsageError
    from .datasets import find_autoencoder, resolve_settings

    if target.target is None and settings.config is None:
        raise UsageError(
            "missing argument: what to reconstruct", "e.g. `ditkit data reconstruct ./photos --autoencoder taesd3`"
        )
    config, name = resolve_settings(target.target, settings, output, data, latents)
    if config.autoencoder.name == PIXEL:
        raise UsageError("there is no autoencoder in these settings", "name one: --autoencoder taesd3")
    path = png_path(output.out, f"reconstruct-{text.slug(name)}", force=output.force)
    find_autoencoder(config, quiet=output.quiet)
    pairs = _reconstruct(config, data.count, device.device, quiet=output.quiet)
    from ..latents.codec import summary, summary_lines
    from ..visual.dataset_sheet import save_pairs

    save_pairs(pairs, str(config.autoencoder.source), path)
    figures = summary(pairs)
    numbers = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    lines = [*summary_lines(figures, len(pairs), config), f"picture: {text.flat(str(path))}"]
    show_result(output, {**numbers, "images": len(pairs), "picture": str(path)}, lines)


def _reconstruct(config: RunConfig, count: int, device: str, *, quiet: bool) -> list[Reconstruction]:
    from .datasets import open_images, watching

    images = open_images(config, quiet=quiet)
    with console.loading_torch(quiet=quiet):
        from ..latents.codec import reconstruct
        from ..runtime.device import find_device
    with watching(quiet=quiet), console.bar("reconstructing", quiet=quiet) as on_image:
        return reconstruct(config, images, count, device=find_device(device), on_image=on_image)


@examples("ditkit data list", "ditkit data list --json")
def list_(output: Annotated[Output, only("json")]) -> None:
    """List the data sets that ditkit knows, and what is in its cache: name, size, age and source.

    The cache holds only what can be fetched or made again. The environment variable DITKIT_CACHE names its place.
    """
    from .. import registry
    from ..io import cache
    from ..io.paths import cache_dir

    descriptions = registry.DATASETS.descriptions()
    with console.spinner("measuring …"):
        entries = [entry.record for entry in cache.entries()]
    total = sum(entry["bytes"] for entry in entries)
    record = {"cache": str(cache_dir()), "datasets": descriptions, "entries": entries, "bytes": total}
    show_result(
        output,
        record,
        ["datasets:", *tables.columns(descriptions, indent="  "), *cache.lines(entries, total)],
    )
    if output.json:
        return
    if any(entry["unfinished"] for entry in entries):
        console.say("`ditkit data remove --unfinished` removes what downloads and other work have left unfinished")
    for link in cache.links():
        console.say(f"warning: {link} leads elsewhere; what is there is neither listed nor removed")


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Data."""

    names: list[str] | None = opt(
        "NAME", "As `ditkit data list` shows them, or their beginnings.", complete=complete.cached, shown=False
    )
    everything: bool = opt("--all", "Everything in the cache.")
    unfinished: bool = opt("--unfinished", "What downloads and other work have left unfinished.")


@examples("ditkit data remove extracted/photos", "ditkit data remove --unfinished --yes", "ditkit data remove --all")
def remove(entries: Entries, output: Annotated[Output, only("yes json quiet")]) -> None:
    """Remove what is in the cache: downloads, unpacked archives, and whatever can be made again.

    Your own images, runs, and the data inside ditkit are not there, and stay.
    """
    from ..io import cache

    cached = cache.entries()
    names, unfinished = entries.names or (), entries.unfinished
    chosen = cache.choose(cached, names, everything=entries.everything, unfinished=unfinished)
    if entries.everything and (shared := [text.flat(entry.name) for entry in cached if entry.shared]):
        console.say(f"what other tools share stays, unless it is named: {', '.join(shared)}", quiet=output.quiet)
    if chosen:
        with console.spinner("measuring …", quiet=output.quiet):
            size = text.format_size(sum(entry.size for entry in chosen))
        what = chosen[0].name if len(chosen) == 1 else f"{len(chosen)} entries of the cache"
        about = [f"  {text.flat(entry.name)}" for entry in chosen] if len(chosen) > 1 else []
        if not console.agreed(f"remove {text.flat(what)}, {size}?", yes=output.yes, about=about):
            console.say("nothing is removed", quiet=output.quiet)
            return
    _remove(chosen, output)


def _remove(entries: Sequence[Entry], output: Output) -> None:
    """Remove all that can be removed; then raise the first error, if there was one."""
    from ..io import cache

    with console.spinner("removing …", quiet=output.quiet):
        removed, freed, errors = cache.remove_all(entries)
    show_result(output, {"removed": removed, "bytes": freed}, [])
    silent = output.quiet or output.json
    if removed:
        what = text.flat(removed[0]) if len(removed) == 1 else f"{len(removed)} entries"
        console.say(f"removed {what}: {text.format_size(freed)} are free again", quiet=silent)
    elif not entries:
        console.say("there is nothing to remove", quiet=silent)
    if errors:
        raise errors[0]


COMMANDS = {"show": show, "reconstruct": reconstruct, "list": list_, "remove": remove}
