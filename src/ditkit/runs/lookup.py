"""A word -> a run or a weights file (run, file, hub, bundled)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DataError, UsageError, unknown
from ..io import text
from ..io.hub import SCHEME, HubAddress, address, is_hub, parse
from ..io.locks import keep_for_reading
from ..io.paths import expanded, resolved
from . import manifest
from .folder import RunFolder, run_of
from .model_info import ModelInfo, check_guide, read_model_info

INSIDE = "ditkit:"  # before the name of a model inside the package, which a run of that name hides otherwise
WEIGHTS, SETTINGS, METRICS = "ema.safetensors", "config.toml", "metrics.jsonl"
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
SUFFIXES = (".safetensors", *PICKLES)
_BUNDLED = Path(__file__).parents[1] / "bundled"
_BY_HAND = f"check the network, or download {WEIGHTS} by hand and give its path"


def bundled_names() -> list[str]:
    """Names of the models inside the package, as --model takes them."""
    return sorted(path.stem for path in _BUNDLED.glob("*.safetensors"))


def bundled_weights(name: str) -> Path | None:
    """The weights file of a model inside the package; None if there is none of that name."""
    return _BUNDLED / f"{name}.safetensors" if name in bundled_names() else None


def run_names(runs: Path) -> list[str]:
    """Names of the runs in a folder, newest first."""
    if not runs.is_dir():
        return []
    folders = (RunFolder(path) for path in runs.iterdir() if not path.name.startswith("."))
    newest_first = sorted((folder for folder in folders if folder.is_run()), key=RunFolder.last_change, reverse=True)
    return [folder.path.name for folder in newest_first]


def run_that_knows(labels: Collection[str], runs: Path) -> str | None:
    """The name of the newest run whose newest checkpoint draws all of these labels; None if there is none."""
    for name in run_names(runs):
        run = RunFolder(runs / name)
        with contextlib.suppress(IndexError, CheckpointError):  # no checkpoint yet, or a damaged one
            if set(labels) <= set(read_model_info(run.checkpoint(run.checkpoint_steps()[-1]) / WEIGHTS).labels):
                return name
    return None


def newest_run(runs: Path) -> RunFolder:
    """The run that was worked on last. Raises DitkitError when there is none."""
    names = run_names(runs)
    if not names:
        raise UsageError(
            f"there is no run in {runs}",
            "train one with `ditkit train mnist`, or name its folder; `ditkit sample --model mnist` needs none",
        )
    return RunFolder(runs / names[0])


def find_run(word: str | None, runs: Path) -> RunFolder:
    """A run by name or by path; the newest for None. Raises UsageError for one that is not there."""
    if word is None:
        return newest_run(runs)
    for path in (runs / word, expanded(word)):
        if RunFolder(path).is_run():
            return RunFolder(path)
    if not run_names(runs):
        raise UsageError(f"there is no run {word!r} in {runs}", "train one with `ditkit train mnist`")
    raise unknown("run", word, run_names(runs))


def losses_of(words: Sequence[str | None], runs: Path) -> tuple[dict[str, list[dict[str, Any]]], Path | None]:
    """The metrics of runs by names that tell them apart, and the folder of the run if there is only one.

    Raises UsageError for a run that is not there, DataError for one without losses.
    """
    folders = [find_run(word, runs) for word in dict.fromkeys(words)]
    rows: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        name = folder.path.resolve().name
        rows[str(folder.path) if name in rows else name] = metrics = folder.metrics()
        if not any("loss" in row for row in metrics):
            raise DataError(f"{folder.path} has no losses yet", "train it first")
    return rows, folders[0].path if len(folders) == 1 else None


def find_weights(
    word: str | None, runs: Path, *, ema: bool = True, on_damage: Callable[[Path], None] = lambda _path: None
) -> Path:
    """The weights file that a run, a checkpoint folder, a file, a repository or a bundled model's name stands for.

    Args:
        word: None for the newest run.
        runs: the folder of runs.
        ema: the averaged weights instead of the raw ones.
        on_damage: called with each checkpoint of a run that is newer than the one chosen, and damaged.

    Raises:
        CheckpointError: there are no weights, or only damaged ones.
        UsageError: the word names nothing.
        MachineError: the network or the disk fails.
    """
    if word and word.startswith(INSIDE):
        return _inside(word.removeprefix(INSIDE), ema=ema)
    if place := hub_address(word, runs):
        return fetch_weights(place, ema=ema)
    name = WEIGHTS if ema else "model.safetensors"
    path = expanded(word) if word else None
    if path and path.is_file():
        _keep(path.parent)
        return _weights_file(path, name, ema=ema)
    if path and ((path / name).is_file() or manifest.is_checkpoint(path)):
        _keep(path)
        return path / name
    if word and word not in run_names(runs) and not RunFolder(expanded(word)).is_run() and bundled_weights(word):
        return _inside(word, ema=ema)
    run = find_run(word, runs)
    newest = run.newest_whole(name, on_damage)
    while newest and not keep_for_reading(newest):  # the run trains on, and has just removed it
        newest = run.newest_whole(name, on_damage)
    if newest is None:
        raise CheckpointError(
            f"{run.path} has no checkpoint yet", "one is written every train.save_every steps, and when training stops"
        )
    return newest / name


def _keep(checkpoint: Path) -> None:
    """Keep a checkpoint that is named itself from being removed by its run before it is read."""
    if manifest.is_checkpoint(checkpoint):
        keep_for_reading(checkpoint)


def _inside(name: str, *, ema: bool) -> Path:
    """The weights file of a model inside the package. Raises UsageError if there is none of that name or kind."""
    weights = bundled_weights(name)
    if weights is None:
        raise unknown("model inside ditkit", name, bundled_names())
    if not ema:
        raise UsageError(f"the model {name} inside the package has EMA weights only", "leave out --no-ema")
    return weights


def unfinished(weights: Path, info: ModelInfo) -> str | None:
    """What to know about the newest checkpoint of a run that is not done; None for other weights."""
    run = run_of(weights)
    if run is None or run.is_imported() or weights.resolve().parent.parent != run.checkpoints:
        return None
    steps, newest = info.config.train.steps, run.checkpoint_steps()[-1:]
    if newest != [info.step] or info.step >= steps:
        return None
    noise = ": expect noise" if info.step < steps / 10 else ""
    inside = bundled_weights(run.path.resolve().name)
    other = f"; the model of that name inside ditkit is {INSIDE}{inside.stem}" if inside else ""
    return f"the run {run.path.name} is at step {info.step:,} of {steps:,}{noise}{other}"


def hub_address(word: str | None, runs: Path) -> str | None:
    """The address of the repository that a word names: hf://user/name, or user/name where nothing here is called so.

    Not user/name in a folder `user` that is there: that is a path with a mistake in it.
    """
    if is_hub(word):
        return word
    user, _, name = (word or "").partition("@")[0].partition("/")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", f"{user}/{name}") or name.endswith(SUFFIXES):
        return None
    local = (expanded(str(word)), runs / str(word), expanded(user), runs / user)
    return None if user == runs.name or any(path.exists() for path in local) else f"{SCHEME}{word}"


def _weights_file(path: Path, name: str, *, ema: bool) -> Path:
    """A file that is named itself; of a checkpoint's averaged weights the raw ones beside it, if these are wanted."""
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"{path} may be a pickle, which can run any code when opened; ditkit reads .safetensors",
            f"bring in its weights, without running any of it, with `ditkit import {text.shell_words(str(path))}`",
        )
    if path.suffix != ".safetensors":
        raise UsageError(f"{path} is not a .safetensors file", "give a run, a checkpoint folder or a weights file")
    sibling = path.with_name(name)
    return sibling if not ema and path.name == WEIGHTS and sibling.is_file() else path


def model_name(weights: Path, word: str | None = None) -> str:
    """The repository's name for hf://user/NAME, the run's for runs/NAME/checkpoints/step-…/…, else the file's."""
    if word and is_hub(word):
        return text.slug(parse(word).repo.rpartition("/")[2])
    path = resolved(weights)
    inside_run = path.parent.parent.name in ("checkpoints", "averages")
    return text.slug(path.parent.parent.parent.name if inside_run else path.stem)


def origin_of(word: str | None, weights: Path) -> str:
    """Where weights come from: hf://user/name@commit of those on the hub, else their path."""
    if not is_hub(word):
        return str(weights)
    from ..io.snapshot import source_of

    return source_of(weights.parent)


def find_guide(word: str, weights: Path, info: ModelInfo, runs: Path, *, scale: float, ema: bool) -> Path:
    """The weights file of the guide that `word` names, for the model of `weights` and `info`.

    Raises UsageError for a run, step or file that is not there, and for a model that cannot guide this one.
    """
    path = find_weights(word, runs, ema=ema) if is_hub(word) or "@" not in word else _of_step(word, weights, runs, ema)
    if path.resolve() == weights.resolve():
        raise UsageError("--autoguide names the model itself", "name a worse one: an early checkpoint")
    if scale == 1:
        raise UsageError("--autoguide does nothing at guidance 1", "ask for more, e.g. --guidance 2")
    check_guide(info, read_model_info(path))
    return path


def _of_step(word: str, weights: Path, runs: Path, ema: bool) -> Path:
    name, _, step = word.rpartition("@")
    run = find_run(name, runs) if name else run_of(weights)
    if run is None:
        raise UsageError(f"--autoguide {word}: {weights} is not in a run's folder", "say RUN@STEP")
    steps = run.checkpoint_steps()
    if not step.isascii() or not step.isdigit() or int(step) not in steps:
        raise UsageError(
            f"--autoguide {word}: {run.path} has no checkpoint of step {step or '(nothing)'}",
            f"there are: {', '.join(map(str, steps[:12])) or 'none'}; keep more with `ditkit train … --keep-every N`",
        )
    _keep(run.checkpoint(int(step)))
    return run.checkpoint(int(step)) / (WEIGHTS if ema else "model.safetensors")


def fetch_model(place: HubAddress, also: Collection[str] = ()) -> Path:
    """The folder with the weights of a model and those of the files `also` that it has, downloaded where missing.

    Raises UsageError for a repository that is not there or holds no model of ditkit's, MachineError for network and
    disk.
    """
    if place.subset:
        raise UsageError(
            f"{address(place.repo)}/{place.subset} is a part of a repository; a model of ditkit's is the whole of one",
            "name it as hf://user/name",
        )
    from ..io.snapshot import files_of, snapshot

    if WEIGHTS not in files_of(place.repo, kind="model", revision=place.revision, by_hand=_BY_HAND, needed=(WEIGHTS,)):
        raise UsageError(
            f"{address(place.repo, place.revision)} holds no model of ditkit's: it has no {WEIGHTS}",
            f"other projects' models come in by `ditkit import {place.repo}`",
        )
    return snapshot(place.repo, kind="model", revision=place.revision, wanted=(WEIGHTS, *also), by_hand=_BY_HAND)


def fetch_weights(word: str, *, ema: bool = True) -> Path:
    """The weights file that hf://user/name[@revision] stands for. Raises as `fetch_model` does."""
    place = parse(word)
    if not ema:
        raise UsageError(f"{address(place.repo)} has averaged weights only", "leave out --no-ema")
    return fetch_model(place) / WEIGHTS
