"""No more than 256 files may be open at once on macOS, unless somebody asks for more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from autoencoders import write_tiny
from patience import scaled
from PIL import Image

pytestmark = pytest.mark.portability
resource = pytest.importorskip("resource", reason="this system has no such limit")
IMAGES = 300

PROGRAM = """
import os, resource, shutil
os.fsync = lambda descriptor: None  # nothing here has to outlast a power cut
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
import numpy as np, torch
from ditkit import recipes
from ditkit.autoencoders.contract import open_autoencoder
from ditkit.autoencoders.files import settings
from ditkit.cli.app import main
from ditkit.data.contract import open_dataset
from ditkit.latents.cache import LatentSpec, open_latents
from ditkit.latents.reader import LatentReader

data = {"name": "folder", "path": "photos", "image_size": 16, "channels": 3, "validation": 4}
config = recipes.load("mnist", {"data": data, "model": {"patch": 2}, "autoencoder": settings("tiny")})
made = open_autoencoder(config)
spec = LatentSpec(dataset=open_dataset(config.data, "train"), split="train", config=config, autoencoder=made,
                  device=torch.device("cpu"), shard_images=1)
for _ in range(2):
    latents = open_latents(spec)
reader = LatentReader(latents, latents.statistics(made.fingerprint), seed=0)
indices = np.arange(len(reader))
batches = [reader.read(indices, indices < 0, indices).x_BCHW for _ in range(2)]
assert torch.equal(*batches) and torch.equal(batches[0], reader.all_means()[0]), "another latent"
assert len(latents.shards) == len(indices) > 256
TINY = "--device cpu --batch-size 4 --set sample.steps=1 --set train.sample_columns=1 --set model.depth=1"
shutil.make_archive("all", "zip", "photos")
for line in ("data show ./photos", "data show all.zip", "train all.zip --steps 1 " + TINY):
    assert main(line.split()) == 0, line
"""


def test_latents_in_many_files_and_many_images_are_read_all_the_same(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(IMAGES):
        Image.fromarray(drawn.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"photos/{index:03d}.png")
    write_tiny(tmp_path / "tiny")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=scaled(120)
    )
    assert done.returncode == 0, done.stderr[-3000:]
