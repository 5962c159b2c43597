"""What other libraries warn of is theirs or ours to mend: whoever uses ditkit reads none of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import scaled
from PIL import Image

TINY = (
    "--set model.width=32 --set model.depth=1 --set model.heads=2 --set sample.steps=1 --set train.sample_columns=1 "
    "--device cpu"
)
DIGITS = f"{TINY} --steps 2 --batch-size 8 --set model.patch=7 --set data.validation=10"
COMMANDS = f"""
data show ./photos
train ./photos --steps 2 --batch-size 4 --image-size 16 --set model.patch=4 --set data.validation=2 {TINY}
sample --model photos --labels 日本 b --device cpu
plot-loss photos
edit img2img photos/b/7.png --model photos --labels b --device cpu
train mnist --name digits {DIGITS} --set data.workers=1
train mnist --name others {DIGITS} --set model.preset=diffusers
train mnist --name compiled {DIGITS} --compile COMPILE
sample --model digits --labels 3 4 --device cpu --reuse 2
evaluate mnist --samples 10 --steps 1 --device cpu
sweep digits --steps 1,2 --samples 10 --device cpu
compare digits others
plot-loss digits --by-noise
make-gif train digits
make-gif denoise digits --labels 3 --device cpu
make-gif interpolate digits --labels 3 4 --device cpu
report digits
export digits --out digits.safetensors
export others --format diffusers --out pipeline
import digits.safetensors
import ./pipeline --as piped
estimate mnist --device cpu
lr-find mnist {TINY} --steps 20 --set model.patch=7
hub push digits user/name --dry-run
doctor
"""
# Of each command the exit code and what is on stderr. The last warning is ours: it shows that any would be seen.
RUNNER = """
import json, os, sys, warnings
from ditkit.cli.app import main
for line in json.loads(sys.argv[1]):
    print(f"## {line}", file=sys.stderr, flush=True)
    print(f"## exit code {main(line.split())}", file=sys.stderr, flush=True)
warnings.warn("this is seen")
"""
FOREIGN = re.compile(r"\w+Warning\b|^\[?[WE]\d{4}\b|^(?:WARNING|ERROR)\b|site-packages", re.MULTILINE)


def odd_images(folder: Path) -> None:
    """Images that make Pillow warn, labels that matplotlib's font lacks."""
    source = np.random.default_rng(0)
    for label in ("日本", "b"):
        (folder / label).mkdir(parents=True)
        images = [Image.fromarray(source.integers(0, 255, (20, 20, 3), dtype=np.uint8)) for _ in range(12)]
        for number, image in enumerate(images):
            image.save(folder / label / f"{number}.png")
        images[0].convert("P").save(folder / label / "0.png", transparency=bytes(range(256)))
        images[1].save(folder / label / "1.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05damaged")


def said(commands: str, place: Path) -> str:
    """Stderr of command lines, with warnings as a user sees them."""
    lines = [line for line in commands.splitlines() if line]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(lines)],
        capture_output=True,
        encoding="utf-8",
        cwd=place,
        env={**{name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}, "PYTHONUTF8": "1"},
        check=False,
        timeout=scaled(300),
    )
    assert done.stderr.count("## exit code 0\n") == len(lines), done.stderr
    text, seen, _ = done.stderr.partition("<string>")
    assert seen, "warnings are not shown at all"
    return text


@pytest.mark.slow
def test_no_warning_of_another_library_is_seen(tmp_path: Path) -> None:
    odd_images(tmp_path / "photos")
    compiles = "on" if shutil.which("g++") or shutil.which("clang") else "off"
    text = said(COMMANDS.replace("COMPILE", compiles), tmp_path)
    assert FOREIGN.findall(text) == [], text


@pytest.mark.extras
def test_nor_of_the_libraries_that_extras_bring(tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime", "tensorboard", "jax"):
        pytest.importorskip(name)
    lines = f"train mnist --name digits {DIGITS} --track tensorboard\n"
    lines += "export digits --format onnx\nsample --model digits --labels 3 --device cpu --backend jax"
    text = said(lines, tmp_path)
    assert FOREIGN.findall(text) == [], text
