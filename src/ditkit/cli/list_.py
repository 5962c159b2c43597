"""`ditkit list`: what there is to choose from, with one line about each."""

from __future__ import annotations

from typing import Annotated

import typer

from . import complete, console
from .options import Debug

EXAMPLES = "Examples:\n\nditkit list\nditkit list samplers"

Family = Annotated[
    str | None,
    typer.Argument(
        metavar="[" + "|".join(complete.FAMILIES) + "]",
        autocompletion=complete.families,
        show_default="all of them",
        help="Which family to list.",
    ),
]


def run(family: Family = None, debug: Debug = False) -> None:
    """List the datasets, recipes, models, objectives, samplers, autoencoders and trackers by name."""
    from ..errors import unknown

    if family is not None and family not in complete.FAMILIES:
        raise unknown("family", family, complete.FAMILIES)
    chosen = [family] if family else complete.FAMILIES
    for position, name in enumerate(chosen):
        if family is None:
            console.data(f"{chr(10) if position else ''}{name}:")
        described = _describe(name)
        width = max((len(member) for member in described), default=0)
        for member, text in described.items():
            console.data(f"{'' if family else '  '}{member:<{width}}  {text}".rstrip())


def _describe(family: str) -> dict[str, str]:
    from .. import registry
    from ..models import presets

    if family == "recipes":
        return dict(complete.recipes())
    if family == "models":
        sizes = {name: presets.settings(name) for name in presets.names()}
        spoken = {name: ", ".join(f"{key} {value}" for key, value in size.items()) for name, size in sizes.items()}
        return {**spoken, presets.DIFFUSERS: "any size, with the parts that `export --format diffusers` takes"}
    if family == "autoencoders":
        from ..autoencoders.files import descriptions

        return descriptions()
    families = {
        "datasets": registry.DATASETS,
        "objectives": registry.OBJECTIVES,
        "samplers": registry.SAMPLERS,
        "trackers": registry.TRACKERS,
    }
    return families[family].descriptions()
