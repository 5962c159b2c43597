"""What was seen in the images that a model drew, kept in parts until all are there."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import tensor_files
from ..durable import make_folder, write_atomically
from ..errors import CheckpointError
from ..paths import cache_folder
from .features import Extractor, Seen

CHUNK = 128  # images between two looks at the disk


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What an extractor saw in the images that one order draws, kept in parts: what is stopped goes on.

    `identity` is all that the images depend on, so that parts of other images are never taken for these.
    """

    identity: dict[str, Any]
    images: int
    extractor: Extractor

    @property
    def folder(self) -> Path:
        """Where the parts lie until the figures are written."""
        text = json.dumps([self.identity, self.images, self.extractor.fingerprint], sort_keys=True, default=str)
        return cache_folder("evaluations") / hashlib.sha256(text.encode()).hexdigest()[:24]

    def chunks(self) -> list[tuple[int, int]]:
        """(start, end) of every part."""
        return [(start, min(start + CHUNK, self.images)) for start in range(0, self.images, CHUNK)]

    def there(self, start: int) -> Seen | None:
        """A part that has been kept; None if it has not, or is damaged."""
        path = self._path(start)
        try:
            found = tensor_files.parse(bytearray(path.read_bytes()), path)
            return Seen(found["features"].numpy(), found["logits"].numpy())
        except (OSError, CheckpointError, KeyError):
            return None

    def see(self, start: int, images: list[np.ndarray]) -> Seen:
        """Look at the images of a part, and keep it."""
        seen = self.extractor.see(images)
        make_folder(self.folder)
        tensors = {"features": seen.features_NF, "logits": seen.logits_NL}
        kept = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in tensors.items()}
        write_atomically(self._path(start), tensor_files.pieces(kept))
        return seen

    def clear(self) -> None:
        """Forget the parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, start: int) -> Path:
        return self.folder / f"part-{start:06d}.safetensors"


def joined(parts: list[Seen]) -> Seen:
    """All parts as one."""
    return Seen(
        np.concatenate([part.features_NF for part in parts]), np.concatenate([part.logits_NL for part in parts])
    )
