"""Commands as the documentation has them, shortened, and a folder with small data that they run in."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from autoencoders import write_kl, write_tiny
from foreign import Meta, Original
from hub_server import commit_of, hub
from made_tables import faces
from PIL import Image

TOP = Path(__file__).parents[2]
Block = tuple[str, str]  # what follows the fence's backticks, and the content


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a Markdown file."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(content: str) -> list[str]:
    """Those of a block, without comments."""
    lines = [line.partition("  #")[0].strip() for line in content.replace("\\\n", " ").splitlines()]
    return [part.strip() for line in lines if line for part in line.split("&&")]


SHORT = [
    "--set",
    "train.save_every=1",
    "--set",
    "train.validate_every=2",
    "--set",
    "train.sample_every=2",
    "--set",
    "train.sample_columns=1",
]
SHORT += ["--set", "sample.steps=2", "--set", "data.validation=16", "--set", "model.width=64", "--batch-size", "4"]
SHORTER = {
    "train": ["--steps", "2", *SHORT],
    "sample": ["--steps", "2"],
    "lr-find": ["--steps", "30", *SHORT[-8:]],
    "make-gif": [],
    "estimate": ["--no-probe"],
    "import": ["--set", "model.heads=4"],  # which no weight of a small network tells
    "hub": ["--yes"],
    "evaluate": ["--samples", "20", "--steps", "2"],
    "sweep": ["--samples", "20"],
    "edit": ["--steps", "2"],
}
LENGTHS = {"0.01,0.02,0.03,0.05,0.07,0.1,0.15": "0.07,0.1"}
EARLIER = {"1000": "1", "@1000": "@1", "600": "1", "@600": "@1", "100": "1"} | LENGTHS  # what two steps have


def carry_out(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Run a ditkit command, shortened; it must succeed."""
    from ditkit.cli.app import main

    words = [EARLIER.get(word, word) for word in shlex.split(command)[1:]]
    code = main(words + SHORTER.get(words[0], []))
    out, err = capfd.readouterr()
    assert code == 0, f"{command}: {err}"
    assert "Traceback" not in err
    if "--json" in words:
        assert json.loads(out)["images"]


def explain_itself(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`python benchmarks/NAME.py ...` must exist, be importable and have a --help."""
    script = TOP / shlex.split(command)[1]
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(str(script.parent))
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    assert caught.value.code == 0
    assert "usage" in capsys.readouterr().out


@pytest.fixture
def here(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty folder with a small `celeba` and `photos` of made-up images in it."""
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
    Image.new("L", (28, 28), 90).save(tmp_path / "three.png")
    Image.linear_gradient("L").resize((28, 28)).save(tmp_path / "mask.png")
    monkeypatch.setattr("ditkit.evaluation.reference.MOST_IMAGES", 300)
    Meta().save(tmp_path / "DiT-XL-2-256x256.pt")
    with hub(_repositories(tmp_path / "fetched")) as server:
        server.users = {"hf_secret": "me"}
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setattr("ditkit.data.celeba.COMMIT", commit_of(server.repositories["dataset", "flwrlabs/celeba"]))
        yield tmp_path


def _more_images(place: Path) -> None:
    """A flat folder with a table of labels, and an archive."""
    shutil.copytree(place / "celeba" / "img_align_celeba", place / "flat")
    names = sorted(path.name for path in (place / "flat").iterdir())
    rows = "".join(f"{name},{'cat' if number % 2 else 'dog'}\n" for number, name in enumerate(names))
    (place / "labels.csv").write_text(f"file,label\n{rows}", encoding="utf-8")
    shutil.make_archive(str(place / "shots"), "zip", place / "photos")


def _repositories(place: Path) -> dict[tuple[str, str], dict[str, bytes]]:
    """What the README's commands fetch, small: faces, pictures, autoencoders of the shapes of two, the original."""
    sizes = {"encoder_block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4}
    blocks = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4}
    write_tiny(place / "taesd3", channels=16, **sizes, **blocks)
    write_kl(place / "kl", channels=4, levels=4)
    Original().save(place / "ckpt.pt")
    folder = "img_align+identity+attr"
    celeba = {f"{folder}/train-00000-of-00001.parquet": faces(40), f"{folder}/valid-00000-of-00001.parquet": faces(20)}
    return {
        ("dataset", "flwrlabs/celeba"): celeba,
        ("dataset", "someone/pictures"): {"data/train-00000-of-00001.parquet": faces(40)},
        ("model", "madebyollin/taesd3"): {path.name: path.read_bytes() for path in (place / "taesd3").iterdir()},
        ("model", "stabilityai/sd-vae-ft-ema"): {path.name: path.read_bytes() for path in (place / "kl").iterdir()},
        ("model", "vachanvy/Diffusion_Transformer"): {"celeba/ckpt.pt": (place / "ckpt.pt").read_bytes()},
    }
