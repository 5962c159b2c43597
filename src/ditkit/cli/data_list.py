"""`ditkit data list`: the data sets that ditkit knows, and what it keeps of them and of others on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..io import text as io_text
from . import console
from .annotated import Debug, Json

if TYPE_CHECKING:
    from ..io.cache import Entry


EXAMPLES = "Examples:\n\nditkit data list\nditkit data list --json"


def run(as_json: Json = False, debug: Debug = False) -> None:
    """List the data sets that ditkit knows, and what is in its cache: name, size, age and source.

    The cache holds only what can be fetched or made again. The environment variable DITKIT_CACHE names its place.
    """
    from .. import registry
    from ..io import cache
    from ..io.paths import cache_dir

    described = registry.DATASETS.descriptions()
    with console.spinner("measuring …"):
        found = [_described(entry) for entry in cache.entries()]
    total = sum(one["bytes"] for one in found)
    if as_json:
        console.data(json.dumps({"cache": str(cache_dir()), "datasets": described, "entries": found, "bytes": total}))
        return
    width = max(map(len, described), default=0)
    console.data("datasets:")
    for name, text in described.items():
        console.data(f"  {name:<{width}}  {text}".rstrip())
    _print_cache(found, total)
    for link in cache.links():
        console.say(f"warning: {link} leads elsewhere; what is there is neither listed nor removed")


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "path": str(entry.path),
        "bytes": entry.size,
        "modified": entry.modified,
        "source": entry.source,
        "unfinished": entry.unfinished,
    }


def _print_cache(found: list[dict[str, Any]], total: int) -> None:
    import time

    from ..io.paths import cache_dir

    console.data(f"\nin the cache, {io_text.flat(str(cache_dir()))}:")
    names = [io_text.flat(one["name"]) for one in found]
    width = min(60, max(map(len, names), default=0))
    for name, one in zip(names, found, strict=True):
        age = io_text.format_age(time.time() - one["modified"])
        note = "  unfinished" if one["unfinished"] else ""
        console.data(f"  {name:<{width}}  {io_text.format_size(one['bytes']):>9}  {age:>8}{note}")
        if one["source"]:
            console.data(f"    from {io_text.flat(one['source'])}")
    if not found:
        console.data("  nothing")
        return
    left = [one["bytes"] for one in found if one["unfinished"]]
    litter = f", {io_text.format_size(sum(left))} of it unfinished" if left else ""
    console.data(f"  {io_text.format_size(total)} in all{litter}")
    if left:
        console.say("`ditkit data remove --unfinished` removes what downloads and other work have left unfinished")
