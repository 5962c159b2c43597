"""What stays as it is while the source is moved: help, errors, public names, losses, and a run begun earlier.

What is expected is in `frozen/`; DITKIT_RENEW=1 writes it again instead of comparing. A `== ditkit …` line added to
help.txt or errors.txt is one more case. The run in `frozen/run` is made only where it is missing: that one written
earlier still continues and draws is what it is for.
"""

from __future__ import annotations

import difflib
import inspect
import json
import math
import operator
import os
import re
import shutil
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from autoencoders import SHRINK, write_kl
from PIL import Image

import ditkit
from ditkit import recipes
from ditkit.cli.app import main
from ditkit.config import RunConfig

FROZEN = Path(__file__).parent / "frozen"
RENEW = "DITKIT_RENEW"
SMALL = "data.validation=8 model.width=32 model.depth=2 model.heads=2 optim.lr=1e-3 optim.schedule=constant "
SMALL += "optim.warmup_steps=2 sample.steps=2 train.steps=20 train.batch_size=8 train.sample_columns=1 "
DIGITS, PHOTOS = "model.patch=7 ", "data.path=photos data.image_size=16 model.patch=4 "
TRAINED = {  # a recipe and the settings that are other than in it
    "flow, velocity": f"mnist {DIGITS} model.width=64 model.norm=layer model.mlp=gelu-tanh model.rope=false "
    "model.qk_norm=false diffusion.objective=velocity diffusion.weighting=none diffusion.timestep_sampling=uniform",
    "flow, x0": f"mnist {DIGITS} optim.ema_decay=0.9 train.accumulate=2",
    "diffusion, epsilon": f"mnist {DIGITS} model.conditioning=in-context diffusion.process=diffusion "
    "diffusion.objective=epsilon diffusion.weighting=min-snr optim.schedule=cosine sample.sampler=ddim",
    "diffusion, learned sigma, no labels": f"paper {PHOTOS} data.path=photos/dog",
    "diffusion, v": f"folder {PHOTOS} model.conditioning=cross-attention diffusion.process=diffusion "
    "diffusion.objective=v diffusion.weighting=none sample.sampler=ddpm",
    "flow in latents, velocity": f"folder {PHOTOS} data.flip=true autoencoder.name=kl autoencoder.source=kl "
    f"autoencoder.channels=3 autoencoder.shrink={SHRINK} model.patch=1 model.conditioning=adaln "
    "diffusion.objective=velocity diffusion.weighting=none",
}
STOP, END = 4, 8  # steps that the run in frozen/run has done, and is to do
RUN = f"mnist {DIGITS} model.width=16 model.depth=1 model.mlp_ratio=2 model.frequency_size=16 optim.lr=6e-3 "
RUN += f"train.steps={END} train.batch_size=4 train.validate_every=2 train.snapshot_every={STOP}"
NEVER_STOPPED = "frozen/run, had it never stopped"
CONTINUE = "train runs/digits --device cpu --dtype float32 --quiet"
DRAW = "sample --model digits --labels 3 7 --seed 1 --out drawn --device cpu --quiet"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, a terminal of 80 columns without colour, no network, and one thread."""
    monkeypatch.chdir(tmp_path)
    for name in ("DITKIT_RUNS", "DITKIT_DEBUG", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "cache"))
    for name, value in {"COLUMNS": "80", "NO_COLOR": "1", "DITKIT_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def sections(file: str) -> dict[str, str]:
    """Title and text of each part of a frozen file: `== title`, then its lines."""
    whole = (FROZEN / file).read_text(encoding="utf-8") if (FROZEN / file).exists() else ""
    parts = (part.partition("\n") for part in re.split(r"^== ", whole, flags=re.MULTILINE)[1:])
    return {title: text.strip("\n") for title, _, text in parts}


def compare(file: str, found: Mapping[str, str], same: Callable[[str, str], bool] = operator.eq) -> None:
    """Every section must be as it is in the file, which is written instead where RENEW is set."""
    frozen = sections(file)
    if os.environ.get(RENEW):
        text = "\n".join(f"== {title}\n{text}\n" for title, text in {**frozen, **found}.items())
        (FROZEN / file).write_text(text, encoding="utf-8", newline="\n")
        return
    for title, text in found.items():
        then = frozen.get(title, "")
        if not same(then, text):
            lines = difflib.unified_diff(then.splitlines(), text.splitlines(), f"frozen/{file}", "now", lineterm="")
            pytest.fail("\n".join([f"{title}: not as it was ({RENEW}=1 freezes what is now)", *lines]), pytrace=False)


@pytest.mark.skipif(
    any([*map(int, version(name).split(".")[:2])] < least for name, least in (("typer", [0, 29]), ("rich", [15, 0]))),
    reason="written with Typer 0.29 and rich 15: earlier ones draw tables in other widths and have other words",
)
@pytest.mark.parametrize("file", ["help.txt", "errors.txt"])
def test_command_lines_say_what_they_said(file: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(FROZEN / "run", place / "runs/digits")
    (place / "notes.txt").write_text("x", encoding="utf-8")
    (place / "damaged.safetensors").write_bytes(b"\x00" * 20)
    found = {}
    for line in sections(file):
        code = main(line.split()[1:])
        said = "\n".join(one.rstrip() for one in "".join(capsys.readouterr()).splitlines()).strip("\n")
        found[line] = f"exit code {code}\n{said}" if code else said
    assert found
    compare(file, found)


def plain(text: object) -> str:
    """An annotation, default or signature without the modules that its names come from."""
    text = re.sub(r"<function .+? at 0x\w+>", "<function>", str(text)).replace("'", "")
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text)


def described(name: str, thing: Any) -> list[str]:
    """A function by its signature, a class also by its fields and public methods, anything else by its type."""
    if not callable(thing):
        return [f"{name}: {type(thing).__name__}"]
    lines = [name + plain(inspect.signature(thing))]
    if is_dataclass(thing):
        lines = [f"{name}({'*' * all(field.kw_only for field in fields(thing))})"]
        for field in fields(thing):
            default = "" if field.default is MISSING else f" = {plain(field.default)}"
            lines.append(f"    .{field.name}: {plain(field.type)}{default}")
    for key, value in sorted(vars(thing).items()) if inspect.isclass(thing) else ():
        if not key.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            lines.append(f"    .{key}" + (plain(inspect.signature(value)) if inspect.isfunction(value) else ""))
    return lines


def classes_in(hint: Any) -> Iterator[type]:
    """The package's own classes that an annotation is made of."""
    for one in hint if isinstance(hint, list) else typing.get_args(hint):
        yield from classes_in(one)
    if inspect.isclass(hint) and hint.__module__.startswith("ditkit."):
        yield hint


def surface(module: ModuleType) -> str:
    """The public names, then the classes that the public functions take and give."""
    public = {name: getattr(module, name) for name in module.__all__}
    hints = [hint for one in public.values() if inspect.isfunction(one) for hint in typing.get_type_hints(one).values()]
    others = {one.__name__: one for hint in hints for one in classes_in(hint)}
    every = public | {name: others[name] for name in sorted(others.keys() - public)}
    return "\n".join(line for name, one in every.items() for line in described(name, one))


def test_public_names_and_signatures_are_as_they_were() -> None:
    compare("public.txt", {"ditkit": surface(ditkit)})


def test_public_names_and_signatures_of_the_jax_backend_are_as_they_were() -> None:
    for name in ("jax", "optax"):
        pytest.importorskip(name, reason='the JAX backend is not installed: pip install "ditkit[jax]"')
    import ditkit.jax

    compare("public.txt", {"ditkit.jax": surface(ditkit.jax)})


def test_settings_and_their_defaults_are_as_they_were() -> None:
    parts = {name: part if isinstance(part, dict) else {"": part} for name, part in asdict(RunConfig()).items()}
    rows = [f"{name}.{key}".rstrip(".") + f" = {part[key]!r}" for name, part in parts.items() for key in part]
    compare("public.txt", {"settings": "\n".join(rows)})


def config_of(line: str) -> RunConfig:
    recipe, *settings = line.split()
    return recipes.load(recipe, recipes.merge_settings([*SMALL.split(), *settings]))


def losses(folder: Path) -> str:
    """The losses in a run's metrics, one a line: those of steps, and of validation with the averaged weights."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kinds = ("loss", "validation_loss")
    return "\n".join(f"{row['step']} {kind} {row[kind]!r}" for row in rows for kind in kinds if kind in row)


def alike(then: str, now: str) -> bool:
    """The same rows, whose numbers differ by no more than rounding does."""
    before, after = ([line.rpartition(" ") for line in text.splitlines()] for text in (then, now))
    pairs = list(zip(before, after, strict=False))
    close = all(math.isclose(float(old[2]), float(new[2]), rel_tol=1e-5) for old, new in pairs)
    return close and [old[0] for old in before] == [new[0] for new in after]


@pytest.mark.parametrize("name", TRAINED)
def test_training_gives_the_losses_that_it_gave(name: str, place: Path) -> None:
    drawn = np.random.default_rng(0)
    for number in range(40 if PHOTOS in TRAINED[name] else 0):
        folder = place / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    if "latents" in name:
        write_kl(place / "kl")
    ditkit.train(config_of(TRAINED[name]), place / "run", device="cpu", dtype="float32")
    compare("losses.txt", {name: losses(place / "run")}, alike)


def test_a_run_begun_earlier_draws_and_ends_as_if_it_had_never_stopped(place: Path) -> None:
    renew = bool(os.environ.get(RENEW))
    if renew:
        renew_run(place)
    run = Path(shutil.copytree(FROZEN / "run", place / "runs/digits"))
    assert main(DRAW.split()) == 0
    drawn = np.hstack([np.asarray(Image.open(place / "drawn" / name)) for name in ("000-3.png", "001-7.png")])
    if renew:
        Image.fromarray(drawn).save(FROZEN / "drawn.png")
    before = np.asarray(Image.open(FROZEN / "drawn.png"))
    same = drawn.shape == before.shape and np.abs(drawn.astype(int) - before).max() <= 2
    assert same, f"{place / 'drawn'} is not as in {FROZEN / 'drawn.png'} ({RENEW}=1 freezes what is drawn now)"
    assert main(CONTINUE.split()) == 0
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [f"step-{n:07d}" for n in (STOP, END)]
    if not renew:
        compare("losses.txt", {NEVER_STOPPED: losses(run)}, alike)


def renew_run(place: Path) -> None:
    """The losses of the run in frozen/run, had it never stopped; where that is missing, itself, too."""
    config, steps = config_of(RUN), [0]
    ditkit.train(config, place / "whole", device="cpu", dtype="float32")
    compare("losses.txt", {NEVER_STOPPED: losses(place / "whole")})
    if not (FROZEN / "run").exists():
        heard, stop = (lambda event: steps.append(event.step)), (lambda: steps[-1] >= STOP)
        ditkit.train(config, FROZEN / "run", heard, device="cpu", dtype="float32", should_stop=stop)
        (FROZEN / "run/run.lock").unlink()
