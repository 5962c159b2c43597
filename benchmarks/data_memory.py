"""Memory that a set of images takes: opened and read from, with 10,000 images and with 100,000.

    python benchmarks/data_memory.py

Each case is a process of its own, which opens the training and the validation part as `ditkit train` does and reads
200 batches. What counts is the most anonymous memory it ever held (RssAnon of Linux), looked at a hundred times a
second: what the kernel can take back by itself, like files it has read, is not in it. Decoded images are not kept, as
in worker processes; a set of at most 256 MB otherwise is, which would hide what grows here (`--keep` shows it).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from pathlib import Path

KINDS = ("folder", "zip", "tar", "webdataset")
CLASSES = 10


def made(kind: str, count: int, root: Path) -> Path:
    """So many little images in ten classes, made quickly: files are hard links to one, members copies of it."""
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(file, "JPEG")
    picture = file.getvalue()
    names = [f"class_{index % CLASSES}/photo_{index:07d}.jpg" for index in range(count)]
    place = root / f"{kind}-{count}"
    if kind == "folder":
        for name in (f"class_{label}" for label in range(CLASSES)):
            (place / name).mkdir(parents=True)
        for index, name in enumerate(names):
            if index % 10_000 < CLASSES:  # a file has a largest number of links
                original = place / name
                original.write_bytes(picture)
            else:
                os.link(original, place / name)
    elif kind == "zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name in names:
                archive.writestr(name, picture)
    else:
        with tarfile.open(place, "w") as archive:
            for index, name in enumerate(names):
                contents = {name: picture}
                if kind == "webdataset":
                    contents = {f"{index:07d}.jpg": picture, f"{index:07d}.cls": str(index % CLASSES).encode()}
                for member, content in contents.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return place


def anonymous() -> int:
    """Kilobytes of anonymous memory that this process holds."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("RssAnon:")[2].split()[0])


def measure(place: str, batches: int, keep: bool) -> None:
    """Print the largest memory, in kilobytes, of opening a place and reading from it."""
    most = [anonymous()]

    def watch() -> None:
        while True:
            most[0] = max(most[0], anonymous())
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    from ditkit.config import DataConfig
    from ditkit.data.folder import dataset

    config = DataConfig(name="folder", path=place, image_size=(64, 64), channels=3)
    dataset(config, "train"), dataset(config, "validation")  # before torch loads, as the command line does
    import torch

    from ditkit.data.batches import Batches
    from ditkit.data.resident import MOST_CACHE_BYTES, BatchTarget

    torch.set_num_threads(1)
    began = time.perf_counter()
    images, held = dataset(config, "train"), dataset(config, "validation")
    opened = time.perf_counter() - began
    stream = Batches(images, 32, 0, flip=True, place=BatchTarget(cache_bytes=MOST_CACHE_BYTES if keep else 0)).iterate()
    for _ in range(batches):
        next(stream)
    stream.close()
    print(json.dumps({"most": max(most[0], anonymous()), "seconds": opened, "images": len(images) + len(held)}))


def main() -> None:
    """Print a table of both sizes and their difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--keep", action="store_true", help="keep decoded images, where all fit into 256 MB")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.batches, arguments.keep)
        return
    few, many = arguments.counts
    print(f"{'':>12} {f'{few:,} images':>16} {f'{many:,} images':>16} {'more':>10} {'ratio':>7} {'opened in':>10}")
    with tempfile.TemporaryDirectory() as root:
        for kind in arguments.kinds:
            found = []
            for count in (few, many):
                place = made(kind, count, Path(root))
                command = [sys.executable, __file__, "--measure", str(place), "--batches", str(arguments.batches)]
                command += ["--keep"] if arguments.keep else []
                result = subprocess.run(command, check=True, capture_output=True, text=True)
                found.append(json.loads(result.stdout))
            less, more = (one["most"] / 1000 for one in found)
            print(
                f"{kind:>12} {less:>13.1f} MB {more:>13.1f} MB {more - less:>7.1f} MB {more / less:>7.3f} "
                f"{found[1]['seconds']:>8.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
