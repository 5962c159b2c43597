"""`ditkit data show`: what is in a data set, what is wrong with it, and what the network will see of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..io import text
from . import complete, console
from .annotated import (
    DATA,
    OUTPUT,
    Config,
    DataDir,
    Debug,
    Force,
    ImageSize,
    Json,
    LabelBy,
    LabelFile,
    Quiet,
    RunsDir,
    Settings,
)

if TYPE_CHECKING:
    from ..config import RunConfig
    from ..data.contract import Dataset, Split
    from ..data.survey import Survey


EXAMPLES = (
    "Examples:\n\nditkit data show mnist\nditkit data show ./photos --image-size 96x64 --set data.crop=top\n"
    "ditkit data show celeba --data-dir ~/celeba --limit 2000"
)

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[DATASET|RECIPE|FOLDER|RUN]",
        autocompletion=complete.training_targets,
        show_default=False,
        help="What would be trained on: as for `ditkit train`.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        max=10**9,
        show_default="all",
        help="Images to examine, in even steps through the set.",
        rich_help_panel=DATA,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", show_default="data-NAME.png", help="Where the picture goes.", rich_help_panel=OUTPUT
    ),
]


def run(
    target: Target = None,
    data_dir: DataDir = None,
    label_by: LabelBy = None,
    label_file: LabelFile = None,
    image_size: ImageSize = None,
    limit: Limit = None,
    config: Config = None,
    settings: Settings = None,
    runs_dir: RunsDir = None,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Look at a data set before training on it: counts, sizes, duplicates, unreadable images, and a picture.

    The picture shows of each label some images, what is cut off of them, and what the network will see.
    """
    import json

    from ..data import survey_report
    from ..errors import UsageError
    from ..runs import target as run_target
    from . import outputs

    if target is None and config is None:
        raise UsageError("show what?", "try `ditkit data show mnist`, or name a data set or a folder of images")
    flags = {"--data-dir": data_dir, "--label-by": label_by, "--label-file": label_file, "--image-size": image_size}
    resolved, name = run_target.resolve(
        target or "", file=config, settings=settings or [], flags=flags, runs_dir=runs_dir
    )
    path = outputs.png_path(out, f"data-{text.slug(name)}", force=force)
    parts = _open(resolved, quiet=quiet)
    survey = _examined(resolved, parts, limit, quiet=quiet)
    picture = path if _draw(survey, resolved, name, path) else None
    if as_json:
        console.data(json.dumps(survey_report.as_json(survey, resolved, name, picture)))
    elif not quiet:
        for line in survey_report.lines(survey, resolved, name):
            console.data(line)
        if picture:
            console.data(f"picture: {text.flat(str(picture))}")
    if survey.unreadable:
        console.say(survey_report.remedy(survey, resolved), quiet=quiet)


def _open(config: RunConfig, *, quiet: bool) -> dict[Split, Dataset]:
    from ..data.contract import open_dataset
    from ..errors import DataError
    from .datasets import open_images

    train = open_images(config, quiet=quiet)
    parts: dict[Split, Dataset] = {"train": train, "validation": open_dataset(config.data, "validation")}
    if not any(map(len, parts.values())):
        raise DataError("the data set has no images", "check its folder")
    return parts


def _examined(config: RunConfig, parts: dict[Split, Dataset], limit: int | None, *, quiet: bool) -> Survey:
    from ..data.survey import survey

    with console.bar("looking at the images", quiet=quiet) as show:
        return survey(config.data, parts, limit=limit, on_progress=show)


def _draw(survey: Survey, config: RunConfig, name: str, path: Path) -> bool:
    """Whether there was anything to draw."""
    from ..visual.dataset_sheet import sheet
    from ..visual.grid import save_png

    height, width = config.data.image_size
    seen = "what is cut off, and on the right what the network sees" if survey.encoded else "what the network sees"
    title = f"{name}: {seen}, {width} wide, {height} high"
    if config.data.flip:
        title += ", every second one mirrored"
    picture = sheet(survey.shown, survey.labels, title=title, mirror=config.data.flip)
    if picture is not None:
        save_png(picture, path, {"dataset": name, "software": "ditkit"})
    return picture is not None
