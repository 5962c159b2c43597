"""`ditkit import`: another project's weights become a model of ditkit's, by a name."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import complete, console
from .options import OUTPUT, Debug, Force, Json, Quiet, RunsDir, Settings, Yes

if TYPE_CHECKING:
    from ..downloads.place import Place
    from ..run_folder import RunFolder
    from ..weights.contract import Foreign

EXAMPLES = (
    "Examples:\n\nditkit import vachanvy/Diffusion_Transformer --as celeba-original\n"
    "ditkit import DiT-XL-2-256x256.pt --as imagenet\nditkit import ./my-pipeline"
)
_PIPELINE = "model_index.json"
_CHOSEN = {"vachanvy/Diffusion_Transformer": "celeba/ckpt.pt"}  # of repositories with several models
_NO_NAMES = ("ckpt", "checkpoint", "model", "ema", "pytorch_model", "diffusion_pytorch_model")  # that say nothing

What = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE|FOLDER|HUB-ID",
        autocompletion=complete.folders,
        show_default=False,
        help="A .pt or .safetensors file, the folder of a DiTPipeline of diffusers, or a repository of the hub "
        "(user/name, hf://user/name/file, either with @revision behind).",
    ),
]
As = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="NAME", show_default="the file's", help="What it is called here.", rich_help_panel=OUTPUT
    ),
]


def run(
    what: What = None,
    name: As = None,
    settings: Settings = None,
    runs_dir: RunsDir = None,
    force: Force = False,
    yes: Yes = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Bring in a model of another project: the original's ckpt.pt, Meta's DiT, SiT, a DiTPipeline of diffusers.

    The format is recognised. What is written looks like a run, so that `sample`, `make-gif`, `plot-loss` and
    `train … --init-from` take it by its name. Nothing in a pickle is executed.
    """
    from .. import recipes
    from ..errors import UsageError
    from ..run_folder import runs_dir as runs_place

    if what is None:
        raise UsageError("import what?", "e.g. `ditkit import DiT-XL-2-256x256.pt`, or a repository of the hub")
    given = recipes.merge_settings(settings or [])
    runs = runs_place(runs_dir)
    folder, foreign = bring(what, name, runs, settings=given, force=force, yes=yes, quiet=quiet or as_json)
    about = _summary(folder, foreign)
    if as_json:
        console.data(json.dumps(about))
    elif not quiet:
        _tell(about, foreign.card.labels, str(folder.path) if runs_dir else folder.path.name)
        console.data(str(folder.path))


def bring(
    what: str,
    name: str | None,
    runs: Path,
    *,
    settings: Mapping[str, Any] = {},
    force: bool = False,
    yes: bool = False,
    quiet: bool = False,
) -> tuple[RunFolder, Foreign]:
    """Fetch, read, convert and write. Raises UsageError for words, CheckpointError for files, MachineError else."""
    from ..run_folder import RunFolder
    from . import words
    from .targets import watching

    called = words.run_name(name, "--as") if name is not None else None
    place = _local(what) or _on_hub(what)
    folder = RunFolder(runs / called if called else words.free_name(runs / _own_name(place)))
    _check_name(folder, force=force)
    with watching(quiet=quiet, yes=yes):
        path, source = (place, str(place.absolute())) if isinstance(place, Path) else _fetched(place)
    with console.loading_torch(quiet=quiet):
        from ..weights.placed import place_foreign
        from ..weights.recognise import read_foreign
    with console.spinner(f"reading {path.name} …", quiet=quiet):
        foreign = read_foreign(path, settings)
    with console.spinner(f"writing {folder.path} …", quiet=quiet):
        place_foreign(folder, foreign, source)
    return folder, foreign


def _check_name(folder: RunFolder, *, force: bool) -> None:
    """Before anything is fetched: what is there would be lost."""
    import os

    from ..errors import UsageError

    if not os.path.lexists(folder.path):
        return
    if not folder.is_imported():
        raise UsageError(f"{folder.path} is there already, and was not imported", "choose another name with --as")
    if not force:
        raise UsageError(f"{folder.path} is there already", "replace it with --force, or choose another name with --as")


def _local(what: str) -> Path | None:
    """A file or folder that is there. Raises UsageError for one that cannot be a model, or is ditkit's own already."""
    from ..downloads.place import is_hub
    from ..errors import UsageError
    from ..paths import expanded
    from ..run_folder import RunFolder

    path = expanded(what)
    if is_hub(what) or not path.exists():
        return None
    if RunFolder(path).is_run():
        raise UsageError(f"{what} is a run of ditkit already", f"draw with `ditkit sample --model {what}`")
    if not path.is_dir() and not _is_weights(path.name):
        raise UsageError(f"{what} is no file of weights", "those end in .safetensors, .pt, .pth, .ckpt or .bin")
    return path


def _on_hub(what: str) -> Place:
    """A repository, and perhaps a folder or a file of it. Raises UsageError for what is not written like one."""
    from ..autoencoders.presets import is_repository
    from ..downloads.place import is_hub, parse
    from ..errors import UsageError

    repository, _, _ = what.partition("@")
    if is_hub(what):
        return parse(what)
    if is_repository(repository) and not _is_weights(repository):
        return parse(f"hf://{what}")
    raise UsageError(f"there is no file or folder {what}", "check the path; a repository of the hub is user/name")


def _is_weights(name: str) -> bool:
    from ..run_folder import PICKLES

    return name.lower().endswith((".safetensors", *PICKLES))


def _own_name(place: Path | Place) -> str:
    """What a model is called when nobody says: after its file, folder or repository, whichever says something."""
    from . import words

    if isinstance(place, Path):
        inside = place.absolute()
        file = inside.stem if place.is_file() else inside.name
        parts = [file, inside.parent.name] if file.lower() in _NO_NAMES else [file]
    else:
        file = Path(place.subset).stem if _is_weights(place.subset) else place.repo.rpartition("/")[2]
        parts = [file, place.repo.rpartition("/")[2]] if file.lower() in _NO_NAMES else [file]
    return words.slug(parts[-1], "imported")


def _fetched(place: Place) -> tuple[Path, str]:
    """The file or folder of a repository, downloaded, and where it is from. Raises UsageError if that is unclear."""
    from ..downloads.hub import files_of, snapshot
    from ..downloads.place import address

    by_hand = "check the network, or download the file by hand and import that"
    known = files_of(place.repo, kind="model", revision=place.revision, by_hand=by_hand)
    below, wanted = _choose(place, sorted(known))
    root = snapshot(
        place.repo, kind="model", revision=place.revision, wanted=frozenset(wanted).__contains__, by_hand=by_hand
    )
    return root / below, f"{address(place.repo, place.revision)}/{below}".rstrip("/")


def _choose(place: Place, names: Sequence[str]) -> tuple[str, list[str]]:
    """The file or folder of a repository that is the model, and all files that it needs."""
    from ..downloads.place import address
    from ..errors import UsageError

    subset = place.subset or _CHOSEN.get(place.repo, "")
    if subset in names:
        return subset, [subset]
    inside = [name for name in names if not place.subset or name.startswith(f"{place.subset}/")]
    if (f"{place.subset}/" if place.subset else "") + _PIPELINE in inside:
        return place.subset, [name for name in inside if name.endswith((".json", ".safetensors"))]
    files = [name for name in inside if _is_weights(name)]
    files = [name for name in files if name.endswith(".safetensors")] or files
    if len(files) == 1:
        return files[0], files
    where = address(place.repo)
    if not files:
        raise UsageError(f"{where} has no file of weights that ditkit reads", "it reads .pt and .safetensors")
    listed = ", ".join(files[:6]) + (" …" if len(files) > 6 else "")
    raise UsageError(f"{where} has several files of weights: {listed}", f"name one: `ditkit import {where}/{files[0]}`")


def _summary(folder: RunFolder, foreign: Foreign) -> dict[str, Any]:
    card = foreign.card
    return {
        "run": str(folder.path),
        "checkpoint": str(folder.checkpoint(card.step)),
        "origin": foreign.origin,
        "parameters": sum(one.numel() for one in foreign.ema.values()),
        "labels": len(card.labels),
        "step": card.step,
        "losses": len(foreign.losses),
    }


def _tell(about: Mapping[str, Any], labels: Sequence[str], name: str) -> None:
    count = f"{about['parameters'] / 1e6:.1f}M parameters, {about['labels']} labels"
    trained = f", step {about['step']:,}" if about["step"] else ""
    losses = f", {about['losses']:,} losses" if about["losses"] else ""
    console.say(f"this is {about['origin']}: {count}{trained}{losses}")
    some = f" --labels {shlex.join(labels[:2])}" if labels else ""
    console.say(f"draw with `ditkit sample --model {shlex.quote(name)}{some}`")
