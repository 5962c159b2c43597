"""Every command of the README runs: here, shortened and on small data; the packaging commands in .ci/run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from autoencoders import write_tiny
from hub_server import commit_of, hub
from made_tables import faces
from PIL import Image

TOP = Path(__file__).parents[1]
README = (TOP / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
LINES = [line.partition("  #")[0].strip() for kind, block in BLOCKS if not kind for line in block.splitlines()]
COMMANDS = [part.strip() for line in LINES if line for part in line.split("&&")]

SHORT = ["--set", "train.validate_every=2", "--set", "train.sample_every=2", "--set", "train.sample_columns=1"]
SHORT += ["--set", "sample.steps=2", "--set", "data.validation=16", "--set", "model.width=64", "--batch-size", "4"]
SHORTER = {
    "train": ["--steps", "2", *SHORT],
    "sample": ["--steps", "2"],
    "lr-find": ["--steps", "30", *SHORT[-8:]],
    "make-gif": [],
    "estimate": ["--no-probe"],
}
RUN_BY_CI = ("pip install", "python -m pytest", "bash .ci/run")


def is_benchmark(command: str) -> bool:
    return command.startswith("python benchmarks/")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty folder with a small `celeba` and `photos` of made-up images in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DITKIT_RUNS", raising=False)
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    names = [f"{number:06d}.jpg" for number in range(1, 41)]
    (tmp_path / "celeba" / "img_align_celeba").mkdir(parents=True)
    for number, name in enumerate(names):
        pixels = draw.integers(0, 256, (109, 89, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "celeba" / "img_align_celeba" / name)
        kind = tmp_path / "photos" / ("cats", "dogs")[number % 2]
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(kind / name)
    rows = [
        f"{name} {'-1' if number % 2 else ' 1'} {'-1' if number % 4 < 2 else ' 1'}" for number, name in enumerate(names)
    ]
    table = "\n".join(["40", "Male Smiling", *rows, ""])
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_text(table, encoding="utf-8")
    _more_images(tmp_path)
    with hub(_repositories(tmp_path / "autoencoder")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setattr("ditkit.data.celeba.COMMIT", commit_of(server.repositories["dataset", "flwrlabs/celeba"]))
        yield tmp_path


def _more_images(place: Path) -> None:
    """A flat folder with a table of labels, and an archive."""
    shutil.copytree(place / "celeba" / "img_align_celeba", place / "flat")
    names = sorted(path.name for path in (place / "flat").iterdir())
    rows = "".join(f"{name},{'cat' if number % 2 else 'dog'}\n" for number, name in enumerate(names))
    (place / "labels.csv").write_text(f"file,label\n{rows}", encoding="utf-8")
    shutil.make_archive(str(place / "shots"), "zip", place / "photos")


def _repositories(autoencoder: Path) -> dict[tuple[str, str], dict[str, bytes]]:
    """What the README's commands fetch, small: faces, pictures, and an autoencoder of the shape of taesd3."""
    sizes = {"encoder_block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4}
    blocks = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4}
    write_tiny(autoencoder, channels=16, **sizes, **blocks)
    folder = "img_align+identity+attr"
    celeba = {f"{folder}/train-00000-of-00001.parquet": faces(40), f"{folder}/valid-00000-of-00001.parquet": faces(20)}
    return {
        ("dataset", "flwrlabs/celeba"): celeba,
        ("dataset", "someone/pictures"): {"data/train-00000-of-00001.parquet": faces(40)},
        ("model", "madebyollin/taesd3"): {path.name: path.read_bytes() for path in autoencoder.iterdir()},
    }


def test_the_readme_has_its_commands():
    assert {"train", "sample", "lr-find", "plot-loss", "make-gif", "show", "list"} <= {
        words[1] for words in map(str.split, COMMANDS) if words[0] == "ditkit"
    }


def test_every_command_is_of_a_kind_that_is_run():
    kinds = [
        command for command in COMMANDS if not command.startswith(("ditkit ", *RUN_BY_CI)) and not is_benchmark(command)
    ]
    assert kinds == []


def test_the_commands_run_one_after_the_other(here, capfd):
    from ditkit.cli.app import main

    for command in (command for command in COMMANDS if command.startswith("ditkit ")):
        words = shlex.split(command)[1:]
        code = main(words + SHORTER.get(words[0], []))
        out, err = capfd.readouterr()
        assert code == 0, f"{command}: {err}"
        assert "Traceback" not in err
        if "--json" in words:
            assert json.loads(out)["images"]


def test_benchmarks_of_the_readme_explain_themselves(monkeypatch, capsys):
    import runpy
    import sys

    for command in filter(is_benchmark, COMMANDS):
        script = TOP / shlex.split(command)[1]
        monkeypatch.setattr(sys, "argv", [str(script), "--help"])
        monkeypatch.syspath_prepend(str(script.parent))
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(script), run_name="__main__")
        assert caught.value.code == 0
        assert "usage" in capsys.readouterr().out
