"""Images per second: ditkit's batches against a bare `torch.utils.data` loop over Pillow, same images, same workers.

    python benchmarks/decoding.py                                  # JPEGs made by this script: 178x218 and 1024x768
    python benchmarks/decoding.py --data-dir celeba/img_align_celeba

The loop is the usual one: open, convert to RGB, crop the centre, resize with the same filter, convert to a float tensor
in [-1, 1]. Both are timed in turn, and the best of each counts, because other programs can only slow them down.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ditkit.config import DataConfig
from ditkit.data import workers
from ditkit.data.batches import Batches
from ditkit.data.folder import dataset
from ditkit.data.formats import ENDINGS
from ditkit.data.resident import BatchTarget
from ditkit.runtime.threads import calm_threads

SIZES = {"178x218": (178, 218), "1024x768": (1024, 768)}


class Bare(Dataset):
    """The images of the usual loop."""

    def __init__(self, files: list[Path], size: int):
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.open(self.files[index]).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize(
            (self.size, self.size), Image.Resampling.LANCZOS
        )
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(127.5).sub(1), 0


def bare_batches(files: list[Path], arguments: argparse.Namespace, count: int) -> Iterator[int]:
    """The number of images in each batch of the bare loop, without end."""
    loader = DataLoader(Bare(files, arguments.size), arguments.batch, shuffle=True, num_workers=count, drop_last=True)
    for _ in itertools.count():
        for x_BCHW, _ in loader:
            yield len(x_BCHW)


def ditkit_batches(folder: Path, arguments: argparse.Namespace, count: int) -> Iterator[int]:
    """The same of ditkit; decoded images are not kept."""
    size = (arguments.size, arguments.size)
    config = DataConfig(name="folder", path=str(folder), image_size=size, channels=3, validation=0, workers=count)
    target = BatchTarget(threads=arguments.threads, cache_bytes=0)
    batches = Batches(dataset(config, "train"), arguments.batch, 0, place=target)
    for batch in workers.iterate(batches, 0, config):
        yield len(batch.x_BCHW)


def rate(counts: Iterable[int], seconds: float) -> float:
    """Images per second, after four batches to warm up."""
    stream = iter(counts)
    for _ in range(4):
        next(stream)
    began, images = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        images += next(stream)
    elapsed = time.perf_counter() - began
    if hasattr(stream, "close"):
        stream.close()  # type: ignore[attr-defined]
    return images / elapsed


def make(folder: Path, size: tuple[int, int], count: int = 256) -> Path:
    """Photograph-like JPEGs: smooth shapes under a little noise, at a camera's quality."""
    source = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        rough = Image.fromarray(source.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        grain = source.normal(0, 6, (size[1], size[0], 1))
        pixels = np.clip(np.asarray(rough, dtype=np.float32) + grain, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        (folder / f"{index:04d}.jpg").write_bytes(file.getvalue())
    return folder


def main() -> None:
    """Print a table of images per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="a folder of images, instead of those made here")
    parser.add_argument("--size", type=int, default=64, help="side of the resulting images, in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="of ditkit where there are 0 workers, as beside a GPU")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    calm_threads()
    with tempfile.TemporaryDirectory() as temporary:
        made = (
            {name: make(Path(temporary, name), size) for name, size in SIZES.items()} if not arguments.data_dir else {}
        )
        print(f"{'images':>12} {'workers':>8} {'bare loop':>10} {'ditkit':>10} {'ratio':>7}", flush=True)
        for name, folder in (made or {arguments.data_dir.name[:12]: arguments.data_dir}).items():
            files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
            for count in arguments.workers:
                best = {"bare": 0.0, "ditkit": 0.0}
                for _ in range(arguments.rounds):
                    best["bare"] = max(best["bare"], rate(bare_batches(files, arguments, count), arguments.seconds))
                    best["ditkit"] = max(
                        best["ditkit"], rate(ditkit_batches(folder, arguments, count), arguments.seconds)
                    )
                ratio = best["ditkit"] / best["bare"]
                rates = f"{best['bare']:>10,.0f} {best['ditkit']:>10,.0f}"
                print(f"{name:>12} {count:>8} {rates} {ratio:>7.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
