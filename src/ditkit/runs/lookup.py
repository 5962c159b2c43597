"""A word -> a run or a weights file (run, file, hub, bundled)."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, UsageError, unknown
from ..io import text
from ..io.hub import NOTE, HubAddress, address, files_of, is_hub, parse, snapshot
from ..io.paths import expanded
from . import manifest
from .folder import RunFolder, _age

if TYPE_CHECKING:
    from .model_info import ModelInfo


_FOLDER = Path(__file__).parents[1] / "bundled"


def names() -> list[str]:
    """What they are called, as `--model` takes it."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def weights(name: str) -> Path | None:
    """The weights file of one; None if there is none of that name."""
    return _FOLDER / f"{name}.safetensors" if name in names() else None


def find_guide(word: str, weights: Path, info: ModelInfo, runs: Path, *, scale: float, ema: bool) -> Path:
    """The guide's weights file for a model's `weights` and `card`.

    Raises UsageError for a run, step or file that is not there, and for a model that cannot guide this one.
    """
    from ..errors import UsageError
    from ..io.hub import is_hub
    from .model_info import check_guide, read_model_info
    # MOVED

    path = find_weights(word, runs, ema=ema) if is_hub(word) or "@" not in word else _of_step(word, weights, runs, ema)
    if path.resolve() == weights.resolve():
        raise UsageError("--autoguide names the model itself", "name a worse one: an early checkpoint")
    if scale == 1:
        raise UsageError("--autoguide does nothing at guidance 1", "ask for more, e.g. --guidance 2")
    check_guide(info, read_model_info(path))
    return path


def _of_step(word: str, weights: Path, runs: Path, ema: bool) -> Path:
    from ..errors import UsageError
    from .folder import run_of

    name, _, step = word.rpartition("@")
    run = find_run(name, runs) if name else run_of(weights)
    if run is None:
        raise UsageError(f"--autoguide {word}: {weights} is not in a run's folder", "say RUN@STEP")
    known = run.checkpoint_steps()
    if not step.isascii() or not step.isdigit() or int(step) not in known:
        there = ", ".join(f"{one}" for one in known[:12]) or "none"
        raise UsageError(
            f"--autoguide {word}: {run.path} has no checkpoint of step {step or '(nothing)'}",
            f"there are: {there}; keep more with `ditkit train … --keep-every N`",
        )
    return run.checkpoint(int(step)) / ("ema.safetensors" if ema else "model.safetensors")


PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")


def run_names(runs: Path) -> list[str]:
    """Names of the runs in a folder, newest first."""
    if not runs.is_dir():
        return []
    there = [RunFolder(path) for path in runs.iterdir() if not path.name.startswith(".")]
    folders = [folder for folder in there if folder.is_run()]
    return [folder.path.name for folder in sorted(folders, key=_age, reverse=True)]


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


def find_weights(
    word: str | None, runs: Path, *, ema: bool = True, on_damage: Callable[[Path], None] = lambda _path: None
) -> Path:
    """The weights file that a run, a checkpoint folder, a file or hf://user/name is.

    A word that is no run's may be the name of a bundled model.

    For a run that is its newest whole checkpoint's; newer, damaged ones are reported. One on the hub is downloaded.
    Raises CheckpointError if there is none, UsageError for a word that names nothing, MachineError for the network.
    """
    if word and is_hub(word):
        # MOVED

        return fetch_weights(word, ema=ema)
    name = "ema.safetensors" if ema else "model.safetensors"
    path = expanded(word) if word else None
    if path and path.is_file():
        if path.suffix.lower() in PICKLES:
            raise CheckpointError(
                f"{path} may be a pickle, which can run any code when opened; ditkit reads .safetensors",
                f"bring in its weights, without running any of it, with `ditkit import {path}`",
            )
        if path.suffix != ".safetensors":
            raise UsageError(f"{path} is not a .safetensors file", "give a run, a checkpoint folder or a weights file")
        sibling = path.with_name(name)
        return sibling if not ema and path.name == "ema.safetensors" and sibling.is_file() else path
    if path and ((path / name).is_file() or manifest.is_checkpoint(path)):
        return path / name
    if word and word not in run_names(runs) and not RunFolder(expanded(word)).is_run():
        inside = weights(word)
        if inside and not ema:
            raise UsageError(f"the model {word} inside the package has EMA weights only", "leave out --no-ema")
        if inside:
            return inside
    run = find_run(word, runs)
    newest = run.newest_whole(name, on_damage)
    if newest is None:
        raise CheckpointError(
            f"{run.path} has no checkpoint yet", "one is written every train.save_every steps, and when training stops"
        )
    return newest / name


def model_name(weights: Path, word: str | None = None) -> str:
    """The repository's name for hf://user/NAME, the run's for runs/NAME/checkpoints/step-…/…, else the file's."""
    if word and is_hub(word):
        return text.slug(parse(word).repo.rpartition("/")[2])
    place = weights.resolve()
    inside_run = place.parent.parent.name in ("checkpoints", "averages")
    return text.slug(place.parent.parent.parent.name if inside_run else place.stem)


def _origin(model: str | None, weights: Path) -> str:
    if not is_hub(model):
        return str(weights)
    # MOVED

    return source_of(weights.parent)


WEIGHTS = "ema.safetensors"
SETTINGS, METRICS = "config.toml", "metrics.jsonl"
_BY_HAND = f"check the network, or download {WEIGHTS} by hand and give its path"


def fetch_model(place: HubAddress, also: Collection[str] = ()) -> Path:
    """The folder with the weights of a model, and what there is of other files, downloaded where missing.

    Raises UsageError for a repository that is not there or holds no model of ditkit's, MachineError for network and
    disk.
    """
    if place.subset:
        raise UsageError(
            f"{address(place.repo)}/{place.subset} is a part of a repository; a model of ditkit's is the whole of one",
            "name it as hf://user/name",
        )
    there = files_of(place.repo, kind="model", revision=place.revision, by_hand=_BY_HAND)
    if WEIGHTS not in there:
        raise UsageError(
            f"{address(place.repo, place.revision)} holds no model of ditkit's: it has no {WEIGHTS}",
            f"other projects' models come in by `ditkit import {place.repo}`",
        )
    wanted = frozenset((WEIGHTS, *also))
    return snapshot(place.repo, kind="model", revision=place.revision, wanted=wanted.__contains__, by_hand=_BY_HAND)


def fetch_weights(word: str, *, ema: bool = True) -> Path:
    """The weights file that hf://user/name[@revision] stands for. Raises as `fetch_model` does."""
    place = parse(word)
    if not ema:
        raise UsageError(f"{address(place.repo)} has averaged weights only", "leave out --no-ema")
    return fetch_model(place) / WEIGHTS


def source_of(folder: Path) -> str:
    """Where a folder that was fetched comes from, with the commit: hf://user/name@0123456789ab."""
    return str(json.loads((folder / NOTE).read_bytes())["source"])
