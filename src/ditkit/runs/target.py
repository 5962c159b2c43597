"""RECIPE|DATASET|FOLDER|RUN|hf:// + overrides -> RunConfig."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import recipes
from ..autoencoders.files import settings as autoencoder_settings
from ..config import RunConfig, to_dict
from ..errors import UsageError, unknown
from ..io import text
from ..io.hub import is_hub, parse
from ..io.paths import as_stored, expanded, not_there
from ..registry import DATASETS
from .folder import RunFolder
from .init_from import InitFrom, find_init_from
from .lookup import run_names
from .stored import continued


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a word to train on stands for."""

    tree: Mapping[str, Any]  # settings to begin with
    name: str  # of a run
    folder: Path | None = None  # of the run that is continued
    on_gpu: str | None = None  # recipe that stands in for this one on a GPU


def find_target(word: str, runs: Path) -> Target:
    """A recipe, a dataset, a run (by name or folder), or a folder of images. Raises UsageError for anything else."""
    if not word:
        raise UsageError("an empty word names nothing to train on", "e.g. `ditkit train mnist`")
    if word in recipes.descriptions():
        return Target(tree=recipes.tree(word), name=word, on_gpu=recipes.on_gpu(word))
    if word in DATASETS.names():
        return Target(tree=_with_data(name=word), name=word)
    path = expanded(word)
    is_path = word.startswith((".", "~", "/")) or "/" in word or "\\" in word
    for run in (RunFolder(path),) if is_path else (RunFolder(runs / word), RunFolder(path)):
        if run.is_run():
            return Target(tree=to_dict(run.read_config()), name=run.path.resolve().name, folder=run.path)
    if (path / "checkpoints").is_dir() and (path / "metrics.jsonl").is_file():
        raise UsageError(f"{word} is a run without its config.toml", "put the file back, or start another run")
    if (place := _place(word)) is not None:
        from ..data.sources.location import stem

        tree = _with_data(name="hub" if is_hub(place) else "folder", path=place)
        name = parse(place).repo.rpartition("/")[2] if is_hub(place) else stem(place)
        return Target(tree=tree, name=text.slug(Path(place).name if path.is_dir() else name, "folder"))
    if path.is_file():
        hint = "give a folder of images, or a .zip or .tar archive of one; a file of settings follows --config"
        raise UsageError(f"{word} is a file", hint)
    if is_path:
        raise UsageError(f"there is no folder {word}", not_there(word))
    names = dict.fromkeys([*recipes.descriptions(), *DATASETS.names(), *run_names(runs)])
    raise unknown("recipe, dataset, run or folder", word, names)


def name_of(target: Target | None, file: Path | None) -> str:
    """The name of a run, or of a picture of it, that is given no other."""
    return target.name if target else text.slug(file.stem if file else "run")


@dataclass(frozen=True, kw_only=True)
class ResolvedRun:
    """What to train, and where."""

    config: RunConfig
    folder: RunFolder
    fresh: bool = False  # a run that is in the folder already is left alone
    init_from: InitFrom | None = None

    @property
    def existing(self) -> RunFolder | None:
        """The run that is continued, if it is one."""
        return self.folder if self.folder.is_run() and not self.fresh else None


Choose = Callable[[Target, RunFolder | None], Target]  # among the recipes of a target, for a device and a run


def resolve_run(
    word: str | None,
    *,
    file: Path | None,
    settings: Sequence[str],
    changes: Mapping[str, Any],
    runs: Path,
    name: str | None = None,
    fresh: bool = False,
    init_from: str | None = None,
    choose: Choose,
) -> ResolvedRun:
    """The run that a word and all beside it stand for.

    Args:
        word: what to train on (see `find_target`); None with a `file`.
        file: settings from --config.
        settings: `key=value` words of --set.
        changes: {setting: value} of the flags; values are words as typed.
        runs: the folder of runs.
        name: of the run; the target's if None.
        fresh: leave a run of that name alone.
        init_from: the word for a model to begin with.
        choose: called with the target and the run that is continued; returns the target for the device.

    Raises UsageError for what is wrong with them.
    """
    target = find_target(word, runs) if word is not None else None
    if target and target.folder and name is None:
        folder = RunFolder(target.folder)
    else:
        folder = RunFolder(runs / (text.run_name(name) if name is not None else name_of(target, file)))
    if not fresh:
        folder.check_continues()
    existing = folder if folder.is_run() and not fresh else None
    if target:
        target = choose(target, existing)
    model = find_init_from(init_from, runs, existing) if init_from is not None else None
    if model:
        tree = model.applied_to(target.tree if target else {})
        target = replace(target, tree=tree) if target else Target(tree=tree, name=name_of(None, file))
    config = build(target, file=file, settings=settings, changes=changes)
    if existing:
        config = continued(config, existing.read_config())
    if model:
        model.check(config)
    return ResolvedRun(config=config, folder=folder, fresh=fresh, init_from=model)


def resolve(
    word: str,
    *,
    file: Path | None,
    settings: Sequence[str],
    changes: Mapping[str, Any],
    runs: Path,
    choose: Choose = lambda target, _: target,
) -> tuple[RunConfig, str]:
    """The settings of what a word and all beside it stand for, and its name; the word may be empty with a file."""
    target = find_target(word, runs) if word else None
    if target:
        target = choose(target, None)
    return build(target, file=file, settings=settings, changes=changes), name_of(target, file)


def build(
    target: Target | None, *, file: Path | None, settings: Sequence[str], changes: Mapping[str, Any]
) -> RunConfig:
    """The settings of a target, under those of a file, under `changes` ({"train.steps": 10}), under --set words.

    Raises UsageError for what is unknown, wrong, or does not go together.
    """
    trees = [target.tree if target else {}, recipes.parse(expanded(file)) if file else {}]
    for key, value in changes.items():
        trees.append(nested(key, _READ[key](value) if key in _READ else value))
    try:
        overrides = recipes.merge_settings(settings)
        if "autoencoder" in changes:
            trees.append(_as_many_tokens(trees, overrides))
        config = recipes.build(*trees, overrides)
    except UsageError as error:
        raise _in_file(error, file, trees[:2]) from None
    check_sampler(config, "--set sample.sampler=")
    return config


def _as_many_tokens(trees: Sequence[Mapping[str, Any]], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The patch that covers as many pixels of an image in the new latents, if no patch is requested."""
    requested = [tree.get("model", {}) for tree in (trees[1], overrides)]
    if any(isinstance(model, Mapping) and {"patch", "preset"} & set(model) for model in requested):
        return {}
    before = recipes.build(trees[0])
    pixels = before.model.patch * before.autoencoder.shrink
    shrink = next(tree["autoencoder"]["shrink"] for tree in trees[2:] if "autoencoder" in tree)
    return {"model": {"patch": max(1, pixels // shrink)}}


def _in_file(error: UsageError, file: Path | None, trees: Sequence[Mapping[str, Any]]) -> UsageError:
    """The same error with the name of the --config file, if that is where it comes from."""
    try:
        recipes.build(*trees)
    except UsageError as earlier:
        if file and earlier.message == error.message:
            return UsageError(f"{file}: {error.message}", error.hint)
    return error


def nested(key: str, value: Any) -> dict[str, Any]:
    """`train.steps` and 10 as {"train": {"steps": 10}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def check_sampler(config: RunConfig, option: str = "--sampler ") -> None:
    """Samplers of flows are called flow-…; the others are for diffusion. Raises UsageError when they do not fit."""
    sample, process = config.sample, config.diffusion.process
    if sample.sampler.startswith("flow-") != (process == "flow"):
        wanted, other = ("a diffusion", "flow-heun") if process == "flow" else ("a flow", "dpmpp")
        model = "a flow" if process == "flow" else "a diffusion"
        raise UsageError(
            f"sampler {sample.sampler!r} needs {wanted} process, this model is {model}", f"use {option}{other}"
        )
    if process == "diffusion" and sample.steps > config.diffusion.timesteps:
        raise UsageError(
            f"{sample.steps} sampling steps are more than the {config.diffusion.timesteps} timesteps of this model",
            f"use {config.diffusion.timesteps} or fewer",
        )


def _with_data(**data: str) -> Mapping[str, Any]:
    """The recipe for folders, with other data."""
    tree = recipes.tree("folder")
    return {**tree, "data": {**tree["data"], **data}}


def data_place(word: str) -> str:
    """Where images are, as settings keep it. Raises UsageError for what is no such place."""
    place = _place(word)
    if place is None:
        raise UsageError(f"--data-dir: {word} is not a folder, nor a .zip or .tar archive", not_there(word))
    return place


def _file(word: str) -> str:
    path = expanded(word)
    if not path.is_file():
        raise UsageError(f"--label-file: there is no file {word}", not_there(word))
    return as_stored(path.resolve())


def _text(option: str, word: str) -> str:
    typed = text.as_text(word)
    if not typed.isprintable():  # half a letter, as another encoding writes it, is not
        raise UsageError(f"{option}: {typed!r} is the name of nothing", "check how it is spelled")
    return typed


def _place(word: str) -> str | None:
    """A folder, an archive, a web address or a hub repository as settings keep it; None for what is none of them."""
    path = expanded(word)
    if path.is_dir():
        return as_stored(path.resolve())
    if is_hub(word):
        parse(word)
        return word
    from ..data.sources.extract import is_archive
    from ..data.sources.location import check_place, is_address, without_query

    if is_address(word):
        check_place(word)
        return without_query(word)
    if is_archive(word) and not path.exists():
        raise UsageError(f"there is no archive {word}", not_there(word))
    return as_stored(path.resolve()) if is_archive(word) else None


_READ: dict[str, Callable[[str], Any]] = {
    "data.path": data_place,
    "data.label_by": partial(_text, "--label-by"),
    "data.label_from": partial(_text, "--label-from"),
    "data.label_file": _file,
    "autoencoder": autoencoder_settings,
}
