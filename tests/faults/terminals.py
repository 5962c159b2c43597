"""Two terminals: two commands that write, begun at one moment in one folder, and what must be true after both."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import harness
import numpy as np
from PIL import Image

from ditkit.runs import stored
from ditkit.runs.folder import RunFolder
from ditkit.runs.model_info import read_model_info

TINY = [word for key, value in harness.SETTINGS.items() for word in ("--set", f"{key}={value}")]
DRAW = "--steps 1 --device cpu --seed SEED"
IMPORT = "import theirs/net.pt --set model.heads=4"
TRAIN = "train mnist --quiet --device cpu --data-dir digits TINY"
NEW = f"{TRAIN} --set train.steps=8"
LATENTS = "train photos --quiet --device cpu --autoencoder vae TINY --set model.patch=1 --set data.image_size=16"
# The line of each command, where SEED and SIDE are of the terminal; and the files that a success adds, by pattern.
COMMANDS: dict[str, tuple[str, dict[str, int]]] = {
    "train": (f"{TRAIN} --set optim.schedule=constant --set train.keep=1 --name a", {}),
    "train new": (f"{NEW} --name new", {}),
    "train --fresh": (f"{NEW} --name b --fresh", {"runs/b-*/checkpoints/step-0000008/ema.safetensors": 1}),
    "train --lr auto": (f"{NEW} --name new --lr auto", {}),
    "lr-find": ("lr-find mnist --data-dir digits --steps 20 --device cpu TINY --quiet", {"lr-find-*.*": 2}),
    "import": (IMPORT, {"runs/theirs*/config.toml": 1}),
    "import --as": (f"{IMPORT} --as new", {}),
    "import --force": (f"{IMPORT} --as foreign --force", {}),
    "sample": (f"sample --model runs/a --labels 3 5 {DRAW}", {"samples/*/*.png": 3}),
    "sample --out": (f"sample --model runs/a --labels 3 5 {DRAW} --out drawn --npz drawn/all.npz", {"drawn/*": 4}),
    "edit": (f"edit img2img 3.png --model runs/a --labels 8 5 {DRAW}", {"edits/*/*.png": 3}),
    "sweep": ("sweep runs/a --steps 1,2 --seed SEED", {"sweeps/*/sweep.*": 3}),
    "compare": ("compare a b --seed SEED", {"comparisons/*/compare.*": 2}),
    "evaluate": (f"evaluate runs/a --samples 10 --data-dir digits {DRAW}", {}),
    "make-gif": (f"make-gif denoise --model ditkit:mnist --labels 3 {DRAW}", {"denoise*.gif": 1}),
    "export": ("export runs/b --out exported.safetensors", {"exported.safetensors": 1}),
    "data remove": ("data remove --all --yes", {}),
    "latents": (f"{LATENTS} --name latents-SIDE --set train.steps=8", {}),
}
# Pairs of which one command must not do it, and says so with one of these exit codes; all other pairs succeed.
_BEGIN = ("train new", "train --lr auto", "import --as")
REFUSED: dict[tuple[str, str], tuple[int, ...]] = {
    ("train", "train"): (7,),
    **dict.fromkeys(itertools.combinations_with_replacement(_BEGIN, 2), (2, 7)),
    ("data remove", "data remove"): (7,),
    ("sample --out", "sample --out"): (2,),
    ("export", "export"): (2,),
}
DEFAULT_LR = 0.006  # of the recipe
INPUTS = ("digits", "photos", "vae", "theirs", "3.png")


def pairs(*, every: bool) -> list[tuple[str, str]]:
    """Each command with itself and with training; every pair if wanted."""
    both = itertools.combinations_with_replacement(COMMANDS, 2)
    return [(first, second) for first, second in both if every or first == second or "train" in (first, second)]


def begin(folder: str) -> None:
    """Two runs of 4 steps, two that are finished, an import, a drawing, and latents in the cache."""
    place = _enter(folder)
    harness.write_digits(place / "digits")
    fewer = [words if words != "train.steps=24" else "train.steps=4" for words in _line("train")]
    for line in (
        fewer,
        [*fewer[:-1], "b"],
        [*_line("train")[:-1], "straight"],
        _line("latents"),
        [*shlex.split(IMPORT), "--as", "foreign"],
        ["sample", "--model", "runs/a", "--labels", "3", "--steps", "1", "--out", "first"],
    ):
        code = harness.finish(harness.fork(harness.command(line), place / "log"))
        assert code == 0, (line, (place / "log").read_text(encoding="utf-8"))
    next((place / "first").glob("0*.png")).rename(place / "3.png")
    shutil.rmtree(place / "first")


def _enter(folder: str) -> Path:
    os.chdir(folder)
    os.environ["DITKIT_CACHE"] = f"{folder}/cache"
    return Path(folder)


def _line(name: str, side: int = 0) -> list[str]:
    words = shlex.split(COMMANDS[name][0].replace("SEED", str(100 * side + 100)).replace("SIDE", str(side)))
    return [part for word in words for part in (TINY if word == "TINY" else [word])]


def side_by_side(folder: str, first: str, second: str) -> dict[str, Any]:
    """Both commands, started at once where `begin` has been: their exit codes, what they said, and what is wrong."""
    place = _enter(folder)
    if first == second == "latents":  # both make them
        shutil.rmtree(place / "cache")
    before = _files(place)
    gate, opened = os.pipe()
    children = []
    for side, name in enumerate((first, second)):

        def start(line: list[str] = _line(name, side)) -> int:
            os.close(opened)
            os.read(gate, 1)
            return harness.command(line)()

        children.append(harness.fork(start, place / f"log-{side}"))
    os.close(opened)
    codes = [harness.finish(child, 60) for child in children]
    said = [(place / f"log-{side}").read_text(encoding="utf-8") for side in range(2)]
    names = [name for name, code in zip((first, second), codes, strict=True) if code == 0]
    wrong = [*_codes(first, second, codes, said), *_damaged(place), *_made(place, names, before), *_runs(place, names)]
    return {"codes": codes, "said": said, "wrong": wrong}


def _codes(first: str, second: str, codes: list[int], said: list[str]) -> Iterator[str]:
    refused = REFUSED.get((first, second)) or REFUSED.get((second, first)) or ()
    if any(code not in (0, *refused) for code in codes) or (2 in refused and 0 not in codes):
        yield f"exit codes {codes}"
    for code, text in zip(codes, said, strict=True):
        errors = len(re.findall(r"^error: ", text, re.MULTILINE))
        if errors != (code != 0) or "Traceback" in text or "internal error" in text:
            yield f"{errors} errors with exit code {code}"


def _files(place: Path) -> set[str]:
    files = (path.relative_to(place) for path in place.rglob("*") if path.is_file())
    return {str(path) for path in files if path.parts[0] not in INPUTS and not path.name.startswith("log")}


def _damaged(place: Path) -> Iterator[str]:
    """Files that are not whole, and what should have gone."""
    for name in sorted(_files(place)):
        path = place / name
        try:
            READ.get(path.suffix, Path.read_bytes)(path)
        except Exception as error:
            yield f"{name} is damaged: {error!r}"
        if path.name.startswith(".") or path.suffix in (".tmp", ".part"):
            yield f"{name} was left behind"
        if not path.stat().st_size and path.suffix not in (".jsonl", ".lock"):
            yield f"{name} is empty"


def _image(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _tensors(path: Path) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    assert len(content) == 8 + length + max(ends), "its length"


READ: dict[str, Callable[[Path], Any]] = {
    ".png": _image,
    ".gif": _image,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_bytes().splitlines()],
    ".toml": lambda path: stored.read_config(path),
    ".npz": lambda path: dict(np.load(path)),
    ".safetensors": _tensors,
}


def _made(place: Path, names: list[str], before: set[str]) -> Iterator[str]:
    """Files that the successful commands should have added, each its own; images of both in one folder."""
    new = [name for name in _files(place) if name not in before]
    for pattern, count in {pair for name in names for pair in COMMANDS[name][1].items()}:
        wanted = count * sum(pattern in COMMANDS[name][1] for name in names)
        if (found := sum(PurePath(name).match(pattern) for name in new)) != wanted:
            yield f"{found} files {pattern}, not {wanted}: {sorted(new)}"
    seeds: dict[str, set[int]] = {}
    for name in new:
        if name.endswith(".png"):
            with Image.open(place / name) as image:
                text = getattr(image, "text", {})
            if "seed" in text:
                seeds.setdefault(str(PurePath(name).parent), set()).add(int(text["seed"].split()[0]) // 100)
    yield from (f"{folder} has images of both" for folder, both in seeds.items() if len(both) > 1)


def _runs(place: Path, names: list[str]) -> Iterator[str]:
    """What is wrong with the runs."""
    runs = place / "runs"
    yield from (f"{run.name}: {harness.litter(run)}" for run in runs.iterdir() if harness.litter(run))
    same = {"a": "straight"} if "train" in names else {}
    same |= {run.name: "latents-0" for run in runs.glob("latents-*")}
    for name, other in same.items():
        if not harness.ending(runs / other).items() <= harness.ending(runs / name).items():
            yield f"{name} does not end as if nothing had happened"
    if "evaluate" in names:
        records = len(json.loads((runs / "a/evaluation.json").read_bytes()))
        if records != names.count("evaluate"):
            yield f"{records} evaluations of {names.count('evaluate')}"
    for name in ("new", "foreign"):
        if (runs / name).exists():
            yield from (f"{name}: {wrong}" for wrong in _mixed(runs / name))


def _mixed(run: Path) -> Iterator[str]:
    """What in a run is not of the one command that has written it."""
    folder = RunFolder(run)
    (newest,) = run.glob("checkpoints/*") if folder.is_imported() else [folder.checkpoint(8)]
    info = read_model_info(newest / "ema.safetensors")
    if info.config != folder.read_config():
        yield "its settings are not those of its weights"
    if folder.is_imported():
        if {path.name for path in run.iterdir()} - {"config.toml", "checkpoints", "metrics.jsonl", "imported.json"}:
            yield f"an import with {sorted(path.name for path in run.iterdir())}"
        return
    steps = [row["step"] for row in folder.metrics() if "loss" in row]
    if not harness.is_whole(newest) or steps != sorted(set(steps)) or steps[-1] != 8:
        yield "not all 8 steps"
    curve = run / "lr-find.json"
    measured = json.loads(curve.read_bytes())["suggestion"] if curve.exists() else DEFAULT_LR
    if folder.read_config().optim.lr != measured:
        yield "its learning rate is not the one that was measured"
