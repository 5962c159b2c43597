"""Many images as one .npz file, as guided-diffusion's evaluator and those made after it read them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import FREE_SPACE, explained, replaced

if TYPE_CHECKING:
    import numpy as np

IMAGES, LABELS = "arr_0.npy", "arr_1.npy"  # the names that numpy.savez gives to arrays without a name


class ImageFile:
    """A .npz file for a known number of images: uint8 (N, H, W, 3) "arr_0", and their label ids, int64 "arr_1".

        with ImageFile(path, 50_000, label_ids) as file:
            file.add(images_NHWC)  # until all are there

    Images go to the disk at once. The file is there, whole, when the block ends without an error.
    """

    def __init__(self, path: Path, count: int, label_ids: Sequence[int] | None):
        """`label_ids`: of the images; None if they have none."""
        self.path, self._count, self._label_ids = path, count, label_ids
        self._written = 0
        self._opened = ExitStack()

    def __enter__(self) -> ImageFile:
        with explained(self.path, FREE_SPACE):
            file = self._opened.enter_context(replaced(self.path))
            self._archive = archive = self._opened.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_STORED))
            self._member = archive.open(zipfile.ZipInfo(IMAGES), "w", force_zip64=True)  # without a date
        return self

    def add(self, images_NHWC: np.ndarray) -> None:
        """Append images, uint8 (N, H, W, 1 or 3); grey ones become three equal channels, as evaluators take no other.

        Raises MachineError when the disk does not take them.
        """
        import numpy as np

        batch_NHW3 = np.ascontiguousarray(np.broadcast_to(images_NHWC, (*images_NHWC.shape[:3], 3)))
        with explained(self.path, FREE_SPACE):
            if not self._written:
                shape = (self._count, *batch_NHW3.shape[1:])
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(self._member, header)
            self._member.write(batch_NHW3.data)
        self._written += len(batch_NHW3)

    def __exit__(self, kind: type[BaseException] | None, *failure: Any) -> None:
        if kind is not None:
            with suppress(OSError):
                self._member.close()
            self._opened.__exit__(kind, *failure)
            return
        with explained(self.path, FREE_SPACE), self._opened:
            self._member.close()
            if self._written != self._count:
                raise ValueError(f"{self._written} images were added to a file of {self._count}")
            self._add_labels()

    def _add_labels(self) -> None:
        import numpy as np

        archive = self._archive
        if self._label_ids is not None:
            with archive.open(zipfile.ZipInfo(LABELS), "w") as member:
                np.lib.format.write_array(member, np.asarray(self._label_ids, dtype=np.int64))
