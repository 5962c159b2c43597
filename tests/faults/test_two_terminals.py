"""Two terminals at once: every pair of commands that write, of which nothing is lost, mixed or left behind."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import autoencoders
import foreign
import numpy as np
import pytest
import terminals
import torch
from harness import in_fresh_process
from PIL import Image

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform == "win32", reason="needs fork")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pair" in metafunc.fixturenames:
        chosen = terminals.pairs(every=metafunc.config.getoption("--long"))
        metafunc.parametrize("pair", chosen, ids=[" and ".join(pair) for pair in chosen])


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, images, an autoencoder and a model of another project."""
    place = tmp_path_factory.mktemp("begun")
    drawn = np.random.default_rng(0)
    for number in range(40):
        image = place / "photos" / ("cat" if number % 2 else "dog") / f"{number:02d}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(image)
    autoencoders.write_tiny(place / "vae")
    (place / "theirs").mkdir()
    weights = foreign.Meta().state_dict()
    torch.save({"model": weights, "ema": weights}, place / "theirs/net.pt")
    in_fresh_process("terminals:begin", folder=place)
    return place


def test_of_two_commands_at_once_each_does_its_work_or_says_why_not(pair: tuple[str, str], begun: Path, tmp_path: Path):
    place = tmp_path / "work"
    shutil.copytree(begun, place)
    result = in_fresh_process("terminals:side_by_side", folder=place, first=pair[0], second=pair[1])
    assert not result["wrong"], (result["wrong"], result["codes"], *result["said"])
