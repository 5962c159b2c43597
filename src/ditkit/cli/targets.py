"""What `train` and `lr-find` are pointed at, and all the words beside it, as one checked RunConfig."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import recipes
from ..config import RunConfig
from ..downloads.place import is_hub, parse
from ..errors import DataError, UsageError, unknown
from ..paths import as_text, expanded, spelled
from ..registry import DATASETS
from ..run_folder import RunFolder, run_names
from . import console, words

if TYPE_CHECKING:
    from ..data.contract import Dataset

FLAGS = {  # flag -> setting
    "--steps": "train.steps",
    "--batch-size": "train.batch_size",
    "--lr": "optim.lr",
    "--seed": "seed",
    "--data-dir": "data.path",
    "--label-by": "data.label_by",
    "--label-file": "data.label_file",
    "--image-size": "data.image_size",
    "--sample-every": "train.sample_every",
    "--keep-every": "train.keep_every",
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """Settings to begin with, the name a run of them gets, and the run folder if one is continued."""

    tree: Mapping[str, Any]
    name: str
    folder: Path | None = None


def find_target(word: str, runs: Path) -> Target:
    """A recipe, a dataset, a run (by name or folder), or a folder of images. Raises UsageError for anything else."""
    if not word:
        raise UsageError("an empty word names nothing to train on", "e.g. `ditkit train mnist`")
    if word in recipes.descriptions():
        return Target(tree=recipes.tree(word), name=word)
    if word in DATASETS.names():
        return Target(tree=_on_folder_recipe({"data": {"name": word}}), name=word)
    path = expanded(word)
    for run in (RunFolder(runs / word), RunFolder(path)):
        if run.is_run():
            run.read_config()  # says which file is wrong, should it be
            return Target(tree=recipes.parse(run.config_file), name=run.path.resolve().name, folder=run.path)
    if (path / "checkpoints").is_dir() and (path / "metrics.jsonl").is_file():
        raise UsageError(f"{word} is a run without its config.toml", "put the file back, or start another run")
    if (place := _place(word)) is not None:
        from ..data.places import stem

        tree = _on_folder_recipe({"data": {"name": "hub" if is_hub(place) else "folder", "path": place}})
        name = parse(place).repo.rpartition("/")[2] if is_hub(place) else stem(place)
        return Target(tree=tree, name=words.slug(Path(place).name if path.is_dir() else name, "folder"))
    if path.is_file():
        hint = "give a folder of images, or a .zip or .tar archive of one; a file of settings follows --config"
        raise UsageError(f"{word} is a file", hint)
    if "/" in word or "\\" in word or word.startswith("."):
        raise UsageError(f"there is no folder {word}", "check the path")
    known = dict.fromkeys([*recipes.descriptions(), *DATASETS.names(), *run_names(runs)])
    raise unknown("recipe, dataset, run or folder", word, known)


def build(target: Target | None, *, file: Path | None, settings: Sequence[str], flags: Mapping[str, Any]) -> RunConfig:
    """Target, then --config, then flags ({"--steps": 10}), then --set on top. Raises UsageError for what is wrong."""
    trees = [target.tree if target else {}, recipes.parse(expanded(file)) if file else {}]
    for flag, value in flags.items():
        if value is not None:
            read = {"--data-dir": _folder, "--label-file": _file, "--label-by": _name}.get(flag, lambda word: word)
            trees.append(nested(FLAGS[flag], read(value)))
    try:
        config = recipes.build(*trees, recipes.merge_settings(settings))
    except UsageError as error:
        raise in_flags(_in_file(error, file, trees[:2]), flags) from None
    check_sampler(config, "--set sample.sampler=")
    return config


def _in_file(error: UsageError, file: Path | None, trees: Sequence[Mapping[str, Any]]) -> UsageError:
    """The same error with the name of the --config file, if that is where it comes from."""
    try:
        recipes.build(*trees)
    except UsageError as found:
        if file and found.message == error.message:
            return UsageError(f"{file}: {error.message}", error.hint)
    return error


def nested(key: str, value: Any) -> dict[str, Any]:
    """`train.steps` and 10 as {"train": {"steps": 10}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def in_flags(error: UsageError, flags: Mapping[str, Any], settings: Mapping[str, str] = FLAGS) -> UsageError:
    """The same error in the words that were typed: `--steps: …` for `train.steps: …`."""
    for flag, value in flags.items():
        key = settings.get(flag)
        if key and value is not None and error.message.startswith(f"{key}: "):
            return UsageError(flag + error.message[len(key) :], f"give {flag} another value")
    return error


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


def open_images(config: RunConfig, *, quiet: bool = False, yes: bool = False) -> Dataset:
    """The images to train on; says what is downloaded or unpacked for them, and asks before it is much."""
    from ..data.contract import open_dataset
    from ..downloads.watch import watched

    with watched(None if quiet else _told, lambda text: _agreed(text, yes=yes)):
        return open_dataset(config.data, "train")


def check_data(config: RunConfig, *, quiet: bool = False, yes: bool = False) -> None:
    """Open the dataset once, before torch loads, so that a missing or malformed one is reported at once.

    Raises UsageError for a model that is larger than the machine: only the data knows how many labels there are.
    """
    from ..data.contract import open_dataset
    from ..models.size import check_size

    images = open_images(config, quiet=quiet, yes=yes)
    if not len(images):
        raise DataError("the data set has no images to train on", "check its folder, or lower --set data.validation")
    open_dataset(config.data, "validation")
    check_size(config, len(images.labels))
    if len(images.labels) == 1:
        console.say(f"warning: every image has the label {images.labels[0]!r}, so guidance has no effect", quiet=quiet)


def _on_folder_recipe(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    base = recipes.tree("folder")
    return {**base, "data": {**base["data"], **tree["data"]}}


def _folder(word: str) -> str:
    place = _place(word)
    if place is None:
        raise UsageError(f"--data-dir: {word} is not a folder, nor a .zip or .tar archive", "check the path")
    return place


def _file(word: str) -> str:
    path = expanded(word)
    if not path.is_file():
        raise UsageError(f"--label-file: there is no file {word}", "check the path")
    return spelled(path.resolve())


def _name(word: str) -> str:
    text = as_text(word)
    if not text.isprintable():  # half a letter, as another encoding writes it, is not
        raise UsageError(f"--label-by: {text!r} is the name of nothing", "check how it is spelled")
    return text


def _place(word: str) -> str | None:
    """A folder, an archive, a web address or a hub repository as settings keep it; None for what is none of them."""
    path = expanded(word)
    if path.is_dir():
        return spelled(path.resolve())
    if is_hub(word):
        parse(word)
        return word
    from ..data.archives import is_archive
    from ..data.places import check_place, is_address

    if is_address(word):
        check_place(word)
        return word
    if is_archive(word) and not path.exists():
        raise UsageError(f"there is no archive {word}", "check the path")
    return spelled(path.resolve()) if is_archive(word) else None


@contextmanager
def _told(text: str) -> Iterator[Callable[[float, float | None], None]]:
    console.say(text)
    with console.bar(text.partition(" ")[0]) as show:
        yield show


def _agreed(text: str, *, yes: bool) -> bool:
    """The user's answer; yes where nobody can be asked, or several processes would ask at once."""
    asks = sys.stdin is not None and sys.stdin.isatty() and console.stderr().is_terminal and "RANK" not in os.environ
    return console.agreed(f"{text}?", yes=yes or not asks)
