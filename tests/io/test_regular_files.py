"""Files that the machine cannot open at the moment are neither damaged nor missing, whoever reads them."""

from __future__ import annotations

import builtins
import errno
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from ditkit.data.sources import extract, idx, parquet_cache
from ditkit.errors import MachineError
from ditkit.io import atomic
from ditkit.latents import cache as latent_cache

READERS: dict[str, Callable[[Path], object]] = {
    "sums": atomic.sha256_of,
    "digits": lambda path: idx.read_idx(path, 3),
    "unpacked archives": extract.is_whole,
    "unpacked tables": lambda path: parquet_cache._read(path, path),
    "latents": lambda path: latent_cache._good_shards(path, 1),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_too_many_open_files_are_told_as_that(read: Callable[[Path], object], tmp_path: Path, monkeypatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    for module in (io, builtins):
        monkeypatch.setattr(module, "open", refuse)
    with pytest.raises(MachineError, match="Too many open files"):
        read(tmp_path)
