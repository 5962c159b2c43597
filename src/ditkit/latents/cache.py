"""The latents of a data set on disk: encoded once, continued after a kill, checked on use, read where they lie.

An entry of the cache is a folder: `shard-00000.safetensors` … with the latents of 256 images each, and `index.json`,
which is written again after each shard and lists what belongs to it. Its name holds a hash of everything that the
latents depend on, so that other images, another size or another autoencoder have another entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..autoencoders.contract import Autoencoder, at_once, encode_in_parts
from ..config import RunConfig
from ..data.contract import Dataset, Split
from ..data.pixels import from_levels
from ..data.resident import decoding_threads
from ..data.sources.location import stem
from ..errors import DataError, MachineError
from ..io import atomic, safetensors
from ..io.locks import exclusive
from ..io.paths import NO_ROOM, cache_folder, check_room
from ..io.progress import Progress, progress
from ..io.reading import blaming_the_machine
from ..io.text import plural
from ..runs.model_info import LatentStats
from ..runtime.at_once import halving

FORMAT = 1
SHARD = 256  # images in a file
_LONG_TO_CHECK = 256 << 20  # bytes
_checked: set[Path] = set()


class Interrupted(Exception):
    """`should_stop` became true while latents were encoded; what is done is kept."""


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """Everything that latents depend on."""

    dataset: Dataset
    split: Split
    config: RunConfig
    autoencoder: Autoencoder
    device: torch.device
    should_stop: Callable[[], bool] = lambda: False
    shard_images: int = SHARD

    @property
    def flips(self) -> int:
        """Versions of each image: 2 where images are mirrored, which their latents cannot be."""
        return 2 if self.config.data.flip and self.split == "train" else 1

    @property
    def folder_name(self) -> str:
        data = self.config.data
        inputs = [self.dataset.fingerprint, data.image_size, data.channels, data.crop, self.autoencoder.fingerprint]
        digest = hashlib.sha256(json.dumps([FORMAT, self.shard_images, self.flips, *inputs]).encode()).hexdigest()
        name = stem(data.path) if data.name == "folder" and data.path else data.name
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)[:40]
        return f"{plain or 'images'}-{self.split}-{digest[:16]}"

    @property
    def image_bytes(self) -> int:
        return 2 * self.flips * math.prod(self.config.shape)  # float16


@dataclass(frozen=True, kw_only=True)
class Latents:
    """A whole entry of the cache."""

    folder: Path
    images: int
    shards: list[dict[str, Any]]
    bad: dict[int, str]  # images that could not be read -> why; their latents are zero
    label_ids: np.ndarray  # int64
    shard_images: int

    def statistics(self, autoencoder: str) -> LatentStats:
        """Mean and standard deviation of each channel over all latents, posterior spread included."""
        count = sum(shard["values"] for shard in self.shards)
        mean = np.sum([shard["sum"] for shard in self.shards], axis=0) / max(count, 1)
        square = np.sum([shard["squares"] for shard in self.shards], axis=0) / max(count, 1)
        std = np.sqrt(np.maximum(square - mean**2, 1e-12))
        return LatentStats(mean=tuple(mean.tolist()), std=tuple(std.tolist()), autoencoder=autoencoder)

    def shard(self, number: int) -> dict[str, np.ndarray]:
        """Arrays `mean` and, where there is a posterior, `std`: float16 (images, versions, C, H, W)."""
        return safetensors.mapped(self.folder / self.shards[number]["file"])


def open_latents(spec: LatentSpec) -> Latents:
    """The latents of a data set, made as far as they are missing or damaged.

    Several processes may ask at once: one makes them, the others wait. Raises Interrupted when `should_stop` says so,
    MachineError for the disk, DataError for an autoencoder that gives nonsense.
    """
    folder = cache_folder("latents") / spec.folder_name
    try:
        atomic.make_folder(folder)
        with exclusive(folder):
            shards = _good_shards(folder, len(spec.dataset))
            numbers = range(-(-len(spec.dataset) // spec.shard_images))
            missing = [number for number in numbers if number not in shards]
            if missing:
                _describe(spec, folder, unfinished=True)
                _make(spec, folder, shards, missing)
            _describe(spec, folder, unfinished=False)
            os.utime(folder)  # when it was last used
    except OSError as error:
        raise MachineError(f"cannot keep latents in {folder}: {error.strerror or error}", NO_ROOM) from None
    ordered = [shards[number] for number in sorted(shards)]
    labels = [np.array(safetensors.mapped(folder / shard["file"])["label"]) for shard in ordered]
    return Latents(
        folder=folder,
        images=len(spec.dataset),
        shards=ordered,
        bad={int(index): why for shard in ordered for index, why in shard["bad"].items()},
        label_ids=np.concatenate(labels) if labels else np.zeros(0, dtype=np.int64),
        shard_images=spec.shard_images,
    )


def _good_shards(folder: Path, images: int) -> dict[int, dict[str, Any]]:
    """Shards that are as the index says, by number; their content is read once in a process."""
    try:
        with blaming_the_machine(folder):
            index = json.loads((folder / "index.json").read_bytes())
        listed = {int(number): shard for number, shard in index["shards"].items()}
        if index["format"] != FORMAT or index["images"] != images:
            return {}
        size = sum(int(shard["bytes"]) for shard in listed.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    if folder in _checked and all((folder / shard["file"]).is_file() for shard in listed.values()):
        return listed
    good, done = {}, 0
    with _watched(size, folder) as show:
        for number, shard in listed.items():
            if _matches(folder / shard["file"], shard):
                good[number] = shard
            done += int(shard["bytes"])
            show(done, size)
    _checked.add(folder)
    return good


def _watched(size: int, folder: Path) -> AbstractContextManager[Progress]:
    if size < _LONG_TO_CHECK:
        return contextlib.nullcontext(lambda done, total: None)
    return progress(f"checking {size / 1e6:,.0f} MB of latents in {folder}")


def _matches(path: Path, shard: dict[str, Any]) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size == shard["bytes"] and atomic.sha256_of(path) == shard["sha256"]
    return False


def _describe(spec: LatentSpec, folder: Path, *, unfinished: bool) -> None:
    """What `ditkit data list` says of it."""
    config, note = spec.config, folder / "about.json"
    source = config.autoencoder.source or config.autoencoder.name
    text = f"latents of {plural(len(spec.dataset), 'image')} ({config.data.name}, {spec.split}) by {source}"
    about = json.dumps({"source": text, **({"unfinished": "yes"} if unfinished else {})})
    if not note.is_file() or note.read_text(encoding="utf-8", errors="replace") != about:
        atomic.write_atomically(note, about)


def _make(spec: LatentSpec, folder: Path, shards: dict[int, dict[str, Any]], missing: list[int]) -> None:
    total, size = len(spec.dataset), spec.shard_images
    check_room("the cache of latents", folder, len(missing) * size * spec.image_bytes + (1 << 20))
    ranges = {number: range(number * size, min(total, (number + 1) * size)) for number in missing}
    done = total - sum(len(indices) for indices in ranges.values())
    text = (
        f"encoding {plural(total - done, 'image')} ({spec.split}) into latents, once for all runs on them, in {folder}"
    )
    with progress(text) as show:
        for number, indices in ranges.items():
            before = done

            def on_image(count: int, before: int = before) -> None:
                show(before + count, total)

            shards[number] = _write(folder, number, indices, *_encode(spec, indices, on_image))
            index = {"format": FORMAT, "images": total, "shards": shards}
            atomic.write_atomically(folder / "index.json", json.dumps(index, allow_nan=False))
            done += len(indices)


def _write(
    folder: Path, number: int, indices: range, tensors: dict[str, Tensor], bad: dict[int, str]
) -> dict[str, Any]:
    """Write one shard, whole or not at all; returns what the index says of it."""
    name = f"shard-{number:05d}.safetensors"
    for leftover in folder.glob(f".{name}.*"):
        leftover.unlink()
    described = atomic.write_atomically(folder / name, safetensors.pieces(tensors))
    good = [row for row, index in enumerate(indices) if index not in bad]
    mean = tensors["mean"][good].double()
    square = mean.square()
    if "std" in tensors:
        square += tensors["std"][good].double().square()
    others = (0, 1, 3, 4)
    return {
        "file": name,
        **described,
        "bad": bad,
        "values": mean.numel() // max(mean.shape[2], 1),
        "sum": mean.sum(others).tolist(),
        "squares": square.sum(others).tolist(),
    }


@torch.inference_mode()
def _encode(
    spec: LatentSpec, indices: range, on_image: Callable[[int], None]
) -> tuple[dict[str, Tensor], dict[int, str]]:
    """Latents of some images as a shard's tensors, and which of the images cannot be read."""
    means, stds, labels, bad = [], [], [], {}
    for images_BHWC, label_B, wrong in _decoded(spec, indices):
        image_BCHW = from_levels(torch.from_numpy(images_BHWC).to(spec.device).permute(0, 3, 1, 2))
        versions = [image_BCHW, image_BCHW.flip(-1)][: spec.flips]
        encoders = [partial(encode_in_parts, spec.autoencoder, version_BCHW) for version_BCHW in versions]
        posteriors = [halving(encode, len(image_BCHW), image_BCHW.device) for encode in encoders]
        means.append(torch.stack([posterior.mean_BCHW for posterior in posteriors], dim=1).half().cpu())
        stds_BCHW = [posterior.std_BCHW for posterior in posteriors if posterior.std_BCHW is not None]
        if stds_BCHW:
            stds.append(torch.stack(stds_BCHW, dim=1).half().cpu())
        labels.extend(label_B)
        bad |= wrong
        on_image(len(labels))
    tensors = {"mean": torch.cat(means), "label": torch.tensor(labels, dtype=torch.int64)}
    if stds:
        tensors["std"] = torch.cat(stds)
    if not all(bool(tensors[name].isfinite().all()) for name in tensors):
        raise DataError("the autoencoder gives latents that are not finite", "choose another with --autoencoder")
    return tensors, bad


def _decoded(spec: LatentSpec, indices: range) -> Iterator[tuple[np.ndarray, list[int], dict[int, str]]]:
    """Images, uint8 (b, H, W, C), labels, and what could not be read, decoded ahead by threads."""
    height, width = spec.config.data.image_size
    blank = np.zeros((height, width, spec.config.data.channels), dtype=np.uint8)
    part = max(1, at_once(height, width) // spec.flips)
    parts = [indices[start : start + part] for start in range(0, len(indices), part)]

    def read(index: int) -> tuple[np.ndarray, int, str | None]:
        try:
            return (*spec.dataset[index], None)
        except DataError as error:
            return blank, 0, error.message

    with ThreadPoolExecutor(decoding_threads(spec.device, 2), thread_name_prefix="ditkit-decode") as pool:
        ahead = [pool.submit(read, index) for index in parts[0]]
        for number, some in enumerate(parts):
            if spec.should_stop():
                for future in ahead:
                    future.cancel()
                raise Interrupted
            decoded = [future.result() for future in ahead]
            ahead = [pool.submit(read, index) for index in parts[number + 1]] if number + 1 < len(parts) else []
            wrong = {index: why for index, (_, _, why) in zip(some, decoded, strict=True) if why is not None}
            yield np.stack([image for image, _, _ in decoded]), [label for _, label, _ in decoded], wrong
