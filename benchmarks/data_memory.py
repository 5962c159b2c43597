"""Memory that a data set takes while it is opened and read, with 10,000 images and with 100,000.

    python benchmarks/data_memory.py

Each case is a process of its own, which opens the training and the validation part as `ditkit train` does and reads
200 batches. The figure is the peak of its anonymous memory (RssAnon of Linux), read a hundred times a second; memory
that the kernel can reclaim, such as cached files, is not part of it. Decoded images are not kept, as in worker
processes. By default ditkit keeps those of a data set of at most 256 MB, which would hide the growth measured here
(`--keep` does so).
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


def make_images(kind: str, count: int, root: Path) -> Path:
    """Write `count` small images in ten classes, quickly: files are hard links to one, members of archives copies."""
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(file, "JPEG")
    picture = file.getvalue()
    names = [f"class_{index % CLASSES}/photo_{index:07d}.jpg" for index in range(count)]
    path = root / f"{kind}-{count}"
    if kind == "folder":
        for name in (f"class_{label}" for label in range(CLASSES)):
            (path / name).mkdir(parents=True)
        for index, name in enumerate(names):
            if index % 10_000 < CLASSES:  # the number of links to a file is limited
                original = path / name
                original.write_bytes(picture)
            else:
                os.link(original, path / name)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, picture)
    else:
        with tarfile.open(path, "w") as archive:
            for index, name in enumerate(names):
                contents = {name: picture}
                if kind == "webdataset":
                    contents = {f"{index:07d}.jpg": picture, f"{index:07d}.cls": str(index % CLASSES).encode()}
                for member, content in contents.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return path


def anonymous() -> int:
    """Kilobytes of anonymous memory that this process holds."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("RssAnon:")[2].split()[0])


def measure(path: str, batches: int, keep: bool) -> None:
    """Print the peak of memory, in kilobytes, of opening a data set and reading from it."""
    peak = [anonymous()]

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], anonymous())
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    from ditkit.config import DataConfig
    from ditkit.data.folder import dataset

    config = DataConfig(name="folder", path=path, image_size=(64, 64), channels=3)
    dataset(config, "train"), dataset(config, "validation")  # before torch loads, as the command line does
    import torch

    from ditkit.data.batches import Batches
    from ditkit.data.resident import MOST_CACHE_BYTES, BatchTarget

    torch.set_num_threads(1)
    began = time.perf_counter()
    images, validation = dataset(config, "train"), dataset(config, "validation")
    opened = time.perf_counter() - began
    stream = Batches(images, 32, 0, flip=True, place=BatchTarget(cache_bytes=MOST_CACHE_BYTES if keep else 0)).iterate()
    for _ in range(batches):
        next(stream)
    stream.close()
    print(json.dumps({"peak": max(peak[0], anonymous()), "seconds": opened, "images": len(images) + len(validation)}))


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
            results = []
            for count in (few, many):
                path = make_images(kind, count, Path(root))
                command = [sys.executable, __file__, "--measure", str(path), "--batches", str(arguments.batches)]
                command += ["--keep"] if arguments.keep else []
                process = subprocess.run(command, check=True, capture_output=True, text=True)
                results.append(json.loads(process.stdout))
            less, more = (result["peak"] / 1000 for result in results)
            print(
                f"{kind:>12} {less:>13.1f} MB {more:>13.1f} MB {more - less:>7.1f} MB {more / less:>7.3f} "
                f"{results[1]['seconds']:>8.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
