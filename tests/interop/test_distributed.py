"""Checkpoints of torch.distributed.checkpoint are put together as data, and nothing in them is executed."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import Meta
from torch.distributed.checkpoint import metadata as formats
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.state_dict_saver import save as save_in_parts

from ditkit.errors import CheckpointError
from ditkit.interop import distributed
from ditkit.interop.detect import read_foreign

HEADS = {"model": {"heads": 4}}


def save(folder: Path, tree: dict[str, Any]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_in_parts(tree, checkpoint_id=folder)
    return folder


def test_a_checkpoint_in_parts_is_read_as_a_whole_one(tmp_path: Path) -> None:
    meta = Meta(classes=3)
    tree = {"model": meta.state_dict(), "step": 7, "optim": {"state": {"x": torch.ones(2)}}}
    foreign = read_foreign(save(tmp_path / "x", tree), HEADS)
    expected = read_foreign(meta.save(tmp_path / "x.pt"), HEADS)
    assert all(torch.equal(foreign.ema[name], value) for name, value in expected.ema.items())
    assert foreign.info.step == 7 and foreign.info.labels == ("0", "1", "2")


def test_accelerate_keeps_it_in_a_folder_of_its_own(tmp_path: Path) -> None:
    save(tmp_path / "pytorch_model_fsdp_0", {"model": Meta(classes=3).state_dict()})
    save(tmp_path / "optimizer_0", {"optimizer": {"x": torch.ones(2)}})
    (tmp_path / "random_states_0.pkl").write_bytes(b"x")
    assert read_foreign(tmp_path, HEADS).origin == "Meta's DiT"


def parts(folder: Path, *, size: tuple[int, ...] = (4, 3), name: str = "0.distcp", count: int = 2) -> Path:
    """A tensor of ones in `count` parts of two rows each."""
    folder.mkdir()
    torch.save(torch.ones(2, 3), folder / "0.distcp")
    length = (folder / "0.distcp").stat().st_size
    chunks = [formats.ChunkStorageMetadata(torch.Size([2 * n, 0]), torch.Size([2, 3])) for n in range(count)]
    tensor = formats.TensorStorageMetadata(formats.TensorProperties(), torch.Size(size), chunks)
    places = {
        formats.MetadataIndex("x", torch.Size([2 * n, 0]), n): _StorageInfo(name, 0, length) for n in range(count)
    }
    about = formats.Metadata(state_dict_metadata={"x": tensor}, storage_data=places)
    (folder / ".metadata").write_bytes(pickle.dumps(about))
    return folder


def test_parts_are_put_where_they_belong(tmp_path: Path) -> None:
    assert torch.equal(distributed.read(parts(tmp_path / "x"))["x"], torch.ones(4, 3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 1}, "parts of x are missing"),
        ({"size": (1 << 20, 1 << 20)}, "larger than its files"),
        ({"name": "../0.distcp"}, "other folders"),
        ({"name": "1.distcp"}, "No such file|cannot be read"),
        ({"count": 3, "size": (6, 3)}, "the same parts several times"),
    ],
)
def test_a_list_of_parts_that_cannot_be_true_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        distributed.read(parts(tmp_path / "x", **options))


def test_its_list_of_parts_is_not_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.mkdir, (tmp_path / "executed",)

    parts(tmp_path / "x")
    (tmp_path / "x/.metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        distributed.read(tmp_path / "x")
    assert not (tmp_path / "executed").exists()
