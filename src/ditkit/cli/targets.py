"""What `train` and `lr-find` are pointed at, and all the words beside it, as one checked RunConfig."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import recipes
from ..autoencoders.files import find_files
from ..autoencoders.presets import PIXEL
from ..autoencoders.presets import settings as autoencoder_settings
from ..config import RunConfig
from ..downloads.place import is_hub, parse
from ..errors import DataError, UsageError, unknown
from ..paths import as_text, expanded, spelled
from ..registry import DATASETS
from ..run_folder import RunFolder, run_names
from ..run_folder import runs_dir as runs_place
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
    "--autoencoder": "autoencoder",
    "--sample-every": "train.sample_every",
    "--evaluate-every": "train.evaluate_every",
    "--keep-every": "train.keep_every",
    "--snapshot-every": "train.snapshot_every",
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """Settings to begin with, the name a run of them gets, and the run folder if one is continued."""

    tree: Mapping[str, Any]
    name: str
    folder: Path | None = None
    on_gpu: str | None = None  # recipe that stands in for this one on a GPU


def find_target(word: str, runs: Path) -> Target:
    """A recipe, a dataset, a run (by name or folder), or a folder of images. Raises UsageError for anything else."""
    if not word:
        raise UsageError("an empty word names nothing to train on", "e.g. `ditkit train mnist`")
    if word in recipes.descriptions():
        return Target(tree=recipes.tree(word), name=word, on_gpu=recipes.on_gpu(word))
    if word in DATASETS.names():
        return Target(tree=_on_folder_recipe({"data": {"name": word}}), name=word)
    path = expanded(word)
    is_path = word.startswith((".", "~", "/")) or "/" in word or "\\" in word
    for run in (RunFolder(path),) if is_path else (RunFolder(runs / word), RunFolder(path)):
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
    if is_path:
        raise UsageError(f"there is no folder {word}", "check the path")
    known = dict.fromkeys([*recipes.descriptions(), *DATASETS.names(), *run_names(runs)])
    raise unknown("recipe, dataset, run or folder", word, known)


def name_of(found: Target | None, file: Path | None) -> str:
    """What a run, or a picture of it, is called by itself."""
    return found.name if found else words.slug(file.stem if file else "run")


def resolve(
    word: str,
    *,
    file: Path | None,
    settings: Sequence[str],
    flags: Mapping[str, Any],
    runs_dir: Path | None,
    device: str | None = None,
) -> tuple[RunConfig, str]:
    """The settings of what a word and all beside it stand for, and its name; the word may be empty with a file.

    On a `device` a recipe may be another than without.
    """
    found = find_target(word, runs_place(runs_dir)) if word else None
    if found and device is not None:
        found = for_device(found, device, None)
    return build(found, file=file, settings=settings, flags=flags), name_of(found, file)


def for_device(found: Target, device: str, run: RunFolder | None) -> Target:
    """The same, or the recipe that stands in for it on a GPU; a run that is there goes on with the one it has."""
    if found.on_gpu is None:
        return found
    other = replace(found, tree=recipes.tree(found.on_gpu), on_gpu=None)
    if run is not None and run.is_run():
        has = run.read_config().autoencoder.name
        return other if has == recipes.build(other.tree).autoencoder.name else found
    if not gpu_is_there(device):
        return found
    console.say(f"there is a GPU: taking the recipe {found.on_gpu}; --device cpu takes the small one")
    return other


def gpu_is_there(device: str) -> bool:
    """Whether training would run on a GPU; asks torch, which takes seconds to load, only where there may be one."""
    if device != "auto":
        return device != "cpu"
    from ..models.size import GPU_DEVICES

    if sys.platform == "linux" and not any(Path(one).exists() for one in (*GPU_DEVICES, "/dev/dxg")):
        return False
    with console.loading_torch():
        from ..device import find_device
    return find_device("auto").type != "cpu"


def build(target: Target | None, *, file: Path | None, settings: Sequence[str], flags: Mapping[str, Any]) -> RunConfig:
    """Target, then --config, then flags ({"--steps": 10}), then --set on top. Raises UsageError for what is wrong."""
    trees = [target.tree if target else {}, recipes.parse(expanded(file)) if file else {}]
    for flag, value in flags.items():
        if value is not None:
            trees.append(nested(FLAGS[flag], _READ[flag](value) if flag in _READ else value))
    try:
        given = recipes.merge_settings(settings)
        if flags.get("--autoencoder"):
            trees.append(_as_many_tokens(trees, given))
        config = recipes.build(*trees, given)
    except UsageError as error:
        raise in_flags(_in_file(error, file, trees[:2]), flags) from None
    check_sampler(config, "--set sample.sampler=")
    return config


def _as_many_tokens(trees: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """The patch that covers as many pixels of an image in the new latents, if no patch is asked for."""
    asked = [tree.get("model", {}) for tree in (trees[1], given)]
    if any(isinstance(model, Mapping) and {"patch", "preset"} & set(model) for model in asked):
        return {}
    before = recipes.build(trees[0])
    pixels = before.model.patch * before.autoencoder.shrink
    shrink = next(tree["autoencoder"]["shrink"] for tree in trees[2:] if "autoencoder" in tree)
    return {"model": {"patch": max(1, pixels // shrink)}}


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
        if key and value is not None and error.message.startswith((f"{key}: ", f"{key}.")):
            return UsageError(f"{flag}: {error.message.partition(': ')[2]}", f"give {flag} another value")
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

    with watching(quiet=quiet, yes=yes):
        return open_dataset(config.data, "train")


def check_data(config: RunConfig, *, quiet: bool = False, yes: bool = False) -> tuple[int, tuple[str, ...]]:
    """Open the dataset once, before torch loads, so that a missing or malformed one is reported at once.

    Returns the number of its images and their labels, and keeps nothing of it in memory.
    Raises UsageError for a model that is larger than the machine: only the data knows how many labels there are.
    """
    from ..data.contract import open_dataset
    from ..models.size import check_size

    images = open_images(config, quiet=quiet, yes=yes)
    if not len(images):
        raise DataError("the data set has no images to train on", "check its folder, or lower --set data.validation")
    open_dataset(config.data, "validation")
    find_autoencoder(config, quiet=quiet, yes=yes)
    check_size(config, len(images.labels))
    if len(images.labels) == 1:
        console.say(f"warning: every image has the label {images.labels[0]!r}, so guidance has no effect", quiet=quiet)
    return len(images), tuple(images.labels)


def find_autoencoder(config: RunConfig, *, quiet: bool = False, yes: bool = False) -> None:
    """Fetch the autoencoder's files where they are wanted and missing; raises DitkitError before torch loads."""
    if config.autoencoder.name != PIXEL:
        with watching(quiet=quiet, yes=yes):
            find_files(config)


def _on_folder_recipe(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    base = recipes.tree("folder")
    return {**base, "data": {**base["data"], **tree["data"]}}


def data_place(word: str) -> str:
    """Where images are, as settings keep it. Raises UsageError for what is no such place."""
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


_READ: dict[str, Callable[[str], Any]] = {
    "--data-dir": data_place,
    "--label-by": _name,
    "--label-file": _file,
    "--autoencoder": autoencoder_settings,
}


@contextmanager
def watching(*, quiet: bool, yes: bool = False) -> Iterator[None]:
    """Within it, what is downloaded, unpacked or encoded is told, with its progress, and asked for if it is much."""
    from ..downloads.watch import watched

    with watched(None if quiet else _told, lambda text: _agreed(text, yes=yes)):
        yield


@contextmanager
def _told(text: str) -> Iterator[Callable[[float, float | None], None]]:
    console.say(text)
    with console.bar(text.partition(" ")[0]) as show:
        yield show


def _agreed(text: str, *, yes: bool) -> bool:
    """The user's answer; yes where nobody can be asked, or several processes would ask at once."""
    asks = sys.stdin is not None and sys.stdin.isatty() and console.stderr().is_terminal and "RANK" not in os.environ
    return console.agreed(f"{text}?", yes=yes or not asks)
